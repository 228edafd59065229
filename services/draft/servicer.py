"""DraftService: proposals over both carriers. Every step of one runs inside the engine's thread, see `ProposalWork`."""

import math
from bisect import bisect_right
from collections.abc import Collection, Sequence

import grpc
from opentelemetry.trace import Span

from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from services.engine.model.vocabulary import Vocabulary
from services.engine.runtime.interface import Logits
from services.engine.sampling import SamplingParams, sample_with_confidence
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.work import Prefix, Work
from services.engine.wire import SessionMethod, check_room, checked_prefix, checked_sampling, deadline_s
from services.frame.rpc.errors import ServiceError, invalid_argument
from services.frame.rpc.handlers import RpcContext
from services.frame.server import FrameServer

# Of the rule by which a proposal ends.
_MOST_MARGINS = 64


def chance_of(margin: float, end: draft_pb2.EarlyEnd) -> float:
    """Return the chance of a token with such a margin, as the caller has told it."""
    return end.chances[bisect_right(end.margins, margin)]


class ProposalWork(Work[draft_pb2.ProposeResult]):
    """Samples up to `num_draft_tokens` tokens, one after the other, and finishes with the reply's result.

    With a deadline it does not wait for a slot: who sets one decodes plainly meanwhile, which is quicker than to wait.
    """

    def __init__(
        self,
        prefix: Prefix,
        num_draft_tokens: int,
        params: SamplingParams,
        end_of_generation: Collection[int],
        *,
        min_joint_confidence: float = 0.0,
        early_end: draft_pb2.EarlyEnd | None = None,
        deadline_s: float | None = None,
        reads_ahead: bool = False,
    ) -> None:
        super().__init__(prefix, deadline_s=deadline_s)
        self.waits_for_slot = deadline_s is None
        self.is_awaited = not reads_ahead
        self._num_draft_tokens = num_draft_tokens
        self._params = params
        self._end_of_generation = end_of_generation
        self._min_joint_confidence = min_joint_confidence
        self._joint_confidence = 1.0
        self._early_end = early_end
        self._joint_chance = 1.0
        self.result = draft_pb2.ProposeResult()

    def next_step(self, logits: Logits, held: Sequence[int]) -> Sequence[int]:
        """Sample the next token under the noise that the target will use at the same position."""
        token, probability, margin = sample_with_confidence(logits[0], len(held), self._params, held)
        self._joint_confidence *= probability
        if self._joint_confidence < self._min_joint_confidence:
            return self._finished(held)
        self.result.draft_tokens.add(token=token, probability=probability, margin=margin)
        self.result.is_end_of_generation = token in self._end_of_generation
        if len(self.result.draft_tokens) == self._num_draft_tokens or self.result.is_end_of_generation:
            return self._finished(held)
        if self._early_end is not None:
            self._joint_chance *= chance_of(margin, self._early_end)
            if self._joint_chance < self._early_end.min_joint_chance:
                return self._finished(held)
        return [token]

    def _finished(self, held: Sequence[int]) -> Sequence[int]:
        return self.finish(self.result, len(held), len(self.result.draft_tokens))


def _check_early_end(end: draft_pb2.EarlyEnd) -> None:
    """Raise ServiceError for a rule that cannot be followed."""
    for field, chances in (("min_joint_chance", [end.min_joint_chance]), ("chances", end.chances)):
        if not all(0 <= chance <= 1 for chance in chances):
            raise invalid_argument("INVALID_REQUEST", f"early_end.{field}", "a chance is between 0 and 1")
    margins = list(end.margins)
    if len(margins) > _MOST_MARGINS or any(math.isnan(margin) for margin in margins) or margins != sorted(margins):
        raise invalid_argument("INVALID_REQUEST", "early_end.margins", f"at most {_MOST_MARGINS} margins, ascending")
    if len(end.chances) != len(margins) + 1:
        raise invalid_argument("INVALID_REQUEST", "early_end.chances", "give one chance more than there are margins")


class _Propose(SessionMethod[draft_pb2.ProposeRequest, draft_pb2.ProposeResult, draft_pb2.ProposeResponse]):
    """Propose and ProposeStream: a request becomes a proposal."""

    def __init__(self, server: FrameServer, vocabulary: Vocabulary, engine: Engine, info: common_pb2.ModelInfo) -> None:
        messages = draft_pb2.ProposeResponse, draft_pb2.ProposeStreamResponse
        super().__init__(server, engine, "draft.propose", *messages)
        self._vocabulary = vocabulary
        self._info = info

    def work(self, request: draft_pb2.ProposeRequest) -> ProposalWork:
        """Return the proposal that a request asks for."""
        size = self._vocabulary.size
        if request.tokenizer_fingerprint not in ("", self._info.tokenizer_fingerprint):
            raise ServiceError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "TOKENIZER_CHANGED",
                "this draft has other tokens than the one that was compared with the target",
            )
        if request.num_draft_tokens < 1:
            raise invalid_argument("INVALID_REQUEST", "num_draft_tokens", "ask for at least one draft token")
        if request.num_draft_tokens > self._info.max_draft_tokens:
            raise ServiceError(
                grpc.StatusCode.OUT_OF_RANGE,
                "DRAFT_TOO_LONG",
                f"{request.num_draft_tokens} draft tokens, at most {self._info.max_draft_tokens} are proposed",
                metadata={"most": str(self._info.max_draft_tokens)},
            )
        if not 0 <= request.min_joint_confidence <= 1:
            raise invalid_argument("INVALID_REQUEST", "min_joint_confidence", "a confidence is between 0 and 1")
        early_end = request.early_end if request.HasField("early_end") else None
        if early_end is not None:
            _check_early_end(early_end)
        # The last draft token is never evaluated here.
        check_room(request.context, request.num_draft_tokens - 1, self._info.context_length)
        return ProposalWork(
            checked_prefix(request.context, size),
            request.num_draft_tokens,
            checked_sampling(request.sampling, size, self._vocabulary.suppressed),
            self._vocabulary.end_of_generation,
            min_joint_confidence=request.min_joint_confidence,
            early_end=early_end,
            deadline_s=deadline_s(request.timeout_ms),
            reads_ahead=request.reads_ahead,
        )

    def trace(self, span: Span, result: draft_pb2.ProposeResult) -> None:
        """Say how long the draft is."""
        span.set_attribute("outrider.cycle.num_draft_tokens", len(result.draft_tokens))


class DraftServicer(draft_pb2_grpc.DraftServiceServicer):
    """Proposes for all sessions with one engine."""

    def __init__(self, server: FrameServer, vocabulary: Vocabulary, engine: Engine, info: common_pb2.ModelInfo) -> None:
        self._propose = _Propose(server, vocabulary, engine, info)

    async def Propose(self, request: draft_pb2.ProposeRequest, context: RpcContext) -> draft_pb2.ProposeResponse:
        """Propose what a request asks for, and answer when that is done."""
        return await self._propose.answer(request)

    async def ProposeStream(  # type: ignore[override]  # replies are written to the context
        self, request_iterator: object, context: RpcContext
    ) -> None:
        """Propose for one session until its stream ends."""
        await self._propose.serve(context)
