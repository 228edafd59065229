"""DraftService: proposals over both carriers."""

import grpc
from opentelemetry.trace import Span

from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from services.draft.proposal import ProposalWork
from services.engine.model.vocabulary import Vocabulary
from services.engine.scheduling.engine import Engine
from services.engine.wire import SessionMethod, check_room, checked_prefix, checked_sampling, deadline_s
from services.frame.rpc.errors import ServiceError, invalid_argument
from services.frame.rpc.handlers import RpcContext
from services.frame.server import FrameServer


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
        # The last draft token is never evaluated here.
        check_room(request.context, request.num_draft_tokens - 1, self._info.context_length)
        return ProposalWork(
            checked_prefix(request.context, size),
            request.num_draft_tokens,
            checked_sampling(request.sampling, size, self._vocabulary.suppressed),
            self._vocabulary.end_of_generation,
            min_joint_confidence=request.min_joint_confidence,
            deadline_s=deadline_s(request.timeout_ms),
        )

    def trace(self, span: Span, result: draft_pb2.ProposeResult) -> None:
        """Say how long the draft is."""
        span.set_attribute("outrider.cycle.num_draft_tokens", len(result.draft_tokens))
