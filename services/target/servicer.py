"""TargetService: verification over both carriers. `accept` compares a draft with the target's own samples."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

import grpc
from opentelemetry.trace import Span

from outrider.v1 import common_pb2, target_pb2
from services.engine.model.vocabulary import Vocabulary
from services.engine.runtime.interface import Logits
from services.engine.sampling import SamplingParams, log_probabilities, samples
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.work import Prefix, Work
from services.engine.wire import (
    SessionMethod,
    check_room,
    checked_prefix,
    checked_sampling,
    checked_tokens,
    deadline_s,
)
from services.frame.rpc.errors import ServiceError, invalid_argument
from services.frame.rpc.handlers import RpcContext
from services.frame.rpc.limits import MAX_LOG_PROBABILITIES
from services.frame.server import FrameServer
from services.target.chat_templates import ChatTemplates
from services.target.text_servicer import TextServicer


@dataclass(frozen=True)
class Verdict:
    """What one verification commits: `num_accepted` draft tokens, then `next_token`."""

    num_accepted: int
    next_token: int
    is_end_of_generation: bool


def accept(draft_tokens: Sequence[int], samples: Iterable[int], end_of_generation: Collection[int]) -> Verdict:
    """Compare the draft with the target's own samples.

    `samples` are the target's tokens given the context and no draft token, the first one, the first two and so on, so
    there is one more of them than of draft tokens; those that cannot matter any more are not asked for. A draft token
    is accepted while it equals the sample in its place; the sample at the first mismatch is the recovered token, the
    one after a fully accepted draft the bonus token. A sample that ends the generation is always reported as
    `next_token`, and nothing is accepted beyond it.

    Equality under shared noise, instead of acceptance by a ratio of probabilities, makes the text independent of the
    draft: Daliri, Musco, Suresh 2024, arXiv 2408.07978.
    """
    for num_accepted, sample in enumerate(samples):
        is_end = sample in end_of_generation
        if is_end or num_accepted == len(draft_tokens) or draft_tokens[num_accepted] != sample:
            return Verdict(num_accepted, sample, is_end)
    raise ValueError(f"{len(draft_tokens)} draft tokens need {len(draft_tokens) + 1} samples")


class VerificationWork(Work[target_pb2.VerifyBatchResult]):
    """Evaluates the last token of the prefix and the draft tokens in one pass, and finishes with the reply's result."""

    def __init__(
        self,
        prefix: Prefix,
        draft_tokens: Sequence[int],
        params: SamplingParams,
        end_of_generation: Collection[int],
        *,
        is_exact: bool = False,
        num_log_probabilities: int | None = None,
        chances: Sequence[float] = (),
        quote_version: int | None = None,
        deadline_s: float | None = None,
    ) -> None:
        """`chances` are those of each draft token, if those before it are accepted; without any all are verified.

        `quote_version` is that of the quote that the caller has; None asks for none.
        """
        super().__init__(prefix, draft_tokens, deadline_s=deadline_s)
        self.worths = list(accumulate(chances, mul))
        self.wants_quote = quote_version is not None
        self._quote_version = quote_version
        self._draft_tokens = draft_tokens
        self._params = params
        self._end_of_generation = end_of_generation
        self._is_exact = is_exact
        self._num_log_probabilities = num_log_probabilities

    def next_step(self, logits: Logits, held: Sequence[int]) -> Sequence[int]:
        """Sample row after row and compare; keep the context and the accepted draft tokens."""
        length = self.prefix.length
        draft_tokens = self._draft_tokens[: len(logits) - 1]
        num_skipped = len(self._draft_tokens) - len(draft_tokens)
        # What follows the first mismatch is never sampled.
        tokens = samples(logits, length, self._params, held[:length], draft_tokens)
        verdict = accept(draft_tokens, tokens, self._end_of_generation)
        result = target_pb2.VerifyBatchResult(
            num_skipped=num_skipped,
            num_accepted=verdict.num_accepted,
            next_token=verdict.next_token,
            is_end_of_generation=verdict.is_end_of_generation,
            exact=self._is_exact,
        )
        if self._num_log_probabilities is not None:
            committed = [*draft_tokens[: verdict.num_accepted], verdict.next_token]
            for row, token in zip(logits, committed, strict=False):
                result.log_probabilities.append(_log_probabilities(row, token, self._num_log_probabilities))
        if self.quote is not None and self.quote.version != self._quote_version:
            result.quote.CopyFrom(self.quote)
        return self.finish(result, length + verdict.num_accepted, verdict.num_accepted + 1)


def _log_probabilities(row: Logits, token: int, num_top: int) -> common_pb2.LogProbabilities:
    """Return those of a committed token and of the most probable tokens in its place."""
    value, ids, values = log_probabilities(row, token, num_top)
    found = common_pb2.LogProbabilities(chosen=common_pb2.TokenLogProbability(token=token, log_probability=value))
    for top_token, top_value in zip(ids.tolist(), values.tolist(), strict=True):
        found.top.add(token=top_token, log_probability=top_value)
    return found


class _Verify(
    SessionMethod[target_pb2.VerifyBatchRequest, target_pb2.VerifyBatchResult, target_pb2.VerifyBatchResponse]
):
    """VerifyBatch and VerifyStream: a request becomes a verification."""

    def __init__(self, server: FrameServer, vocabulary: Vocabulary, engine: Engine, info: common_pb2.ModelInfo) -> None:
        messages = target_pb2.VerifyBatchResponse, target_pb2.VerifyStreamResponse
        super().__init__(server, engine, "target.verify", *messages)
        self._vocabulary = vocabulary
        self._info = info

    def work(self, request: target_pb2.VerifyBatchRequest) -> VerificationWork:
        """Return the verification that a request asks for."""
        size = self._vocabulary.size
        num_draft_tokens = len(request.draft_tokens)
        if num_draft_tokens > self._info.max_draft_tokens:
            raise ServiceError(
                grpc.StatusCode.OUT_OF_RANGE,
                "DRAFT_TOO_LONG",
                f"{num_draft_tokens} draft tokens, at most {self._info.max_draft_tokens} are taken",
                metadata={"most": str(self._info.max_draft_tokens)},
            )
        check_room(request.context, num_draft_tokens, self._info.context_length)
        prefix = checked_prefix(request.context, size)
        draft_tokens = checked_tokens(request.draft_tokens, "draft_tokens", size)
        chances = list(request.draft_chance)
        if len(chances) not in (0, num_draft_tokens):
            raise invalid_argument("INVALID_REQUEST", "draft_chance", "give a chance for each draft token, or for none")
        if not all(0 <= chance <= 1 for chance in chances):
            raise invalid_argument("INVALID_REQUEST", "draft_chance", "a chance is between 0 and 1")
        num_log_probabilities = None
        if request.HasField("num_log_probabilities"):
            num_log_probabilities = request.num_log_probabilities
            if num_log_probabilities > MAX_LOG_PROBABILITIES:
                raise invalid_argument(
                    "INVALID_REQUEST", "num_log_probabilities", f"at most {MAX_LOG_PROBABILITIES} can be asked for"
                )
        return VerificationWork(
            prefix,
            draft_tokens,
            checked_sampling(request.sampling, size, self._vocabulary.suppressed),
            self._vocabulary.end_of_generation,
            is_exact=self._info.exact_mode != common_pb2.EXACT_MODE_OFF,
            num_log_probabilities=num_log_probabilities,
            chances=chances,
            quote_version=request.quote_version if request.HasField("quote_version") else None,
            deadline_s=deadline_s(request.timeout_ms),
        )

    def trace(self, span: Span, result: target_pb2.VerifyBatchResult) -> None:
        """Say how much of the draft stood."""
        span.set_attribute("outrider.cycle.num_accepted", result.num_accepted)


class TargetServicer(TextServicer):
    """Verifies for all sessions with one engine; what it does with texts is in `TextServicer`."""

    def __init__(
        self,
        server: FrameServer,
        vocabulary: Vocabulary,
        engine: Engine,
        info: common_pb2.ModelInfo,
        chat_templates: ChatTemplates,
    ) -> None:
        super().__init__(vocabulary, info, chat_templates, server.settings.max_message_bytes)
        self._verify = _Verify(server, vocabulary, engine, info)

    async def VerifyBatch(
        self, request: target_pb2.VerifyBatchRequest, context: RpcContext
    ) -> target_pb2.VerifyBatchResponse:
        """Verify the draft of a request, and answer when that is done."""
        return await self._verify.answer(request)

    async def VerifyStream(  # type: ignore[override]  # replies are written to the context
        self, request_iterator: object, context: RpcContext
    ) -> None:
        """Verify for one session until its stream ends."""
        await self._verify.serve(context)
