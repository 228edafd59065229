"""DraftService: Propose over both carriers."""

import grpc
from google.rpc import status_pb2

from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from services.draft.proposal import DraftToken, Proposal
from services.engine.model.vocabulary import Vocabulary
from services.engine.scheduling.engine import Engine
from services.engine.wire import (
    check_room,
    checked_prefix,
    checked_sampling,
    deadline_s,
    fill_reply,
    run_work,
    trace_outcome,
)
from services.frame.rpc.errors import ServiceError, invalid_argument
from services.frame.rpc.handlers import RpcContext
from services.frame.server import FrameServer
from services.frame.telemetry import server_span
from services.session.exchange import Exchange


class DraftServicer(draft_pb2_grpc.DraftServiceServicer):
    """Proposes for all sessions with one engine."""

    def __init__(self, server: FrameServer, vocabulary: Vocabulary, engine: Engine, info: common_pb2.ModelInfo) -> None:
        self._server = server
        self._vocabulary = vocabulary
        self._engine = engine
        self._info = info
        self._exchange = Exchange(self._answer, _refuse, engine.release)

    async def Propose(self, request: draft_pb2.ProposeRequest, context: RpcContext) -> draft_pb2.ProposeResponse:
        """Propose once."""
        return await self._exchange.answer(request)

    async def ProposeStream(  # type: ignore[override]  # replies are written to the context
        self, request_iterator: object, context: RpcContext
    ) -> None:
        """Propose for one session until its stream ends."""
        await self._exchange.serve(context, "propose", _wrap, self._server.draining)

    async def _answer(self, request: draft_pb2.ProposeRequest) -> draft_pb2.ProposeResponse:
        reply = draft_pb2.ProposeResponse()
        with server_span(self._server.cycle_telemetry, "draft.propose", request.context) as span:
            outcome = await run_work(self._engine, self._work(request))
            trace_outcome(span, outcome)
            if fill_reply(reply, request.request_id, outcome):
                self._fill_result(reply.result, outcome.value)
                span.set_attribute("outrider.cycle.num_draft_tokens", len(outcome.value))
        return reply

    def _work(self, request: draft_pb2.ProposeRequest) -> Proposal:
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
        return Proposal(
            checked_prefix(request.context, size),
            request.num_draft_tokens,
            checked_sampling(request.sampling, size, self._vocabulary.suppressed),
            self._vocabulary.end_of_generation,
            min_joint_confidence=request.min_joint_confidence,
            deadline_s=deadline_s(request.timeout_ms),
        )

    def _fill_result(self, result: draft_pb2.ProposeResult, draft_tokens: list[DraftToken]) -> None:
        for token in draft_tokens:
            result.draft_tokens.add(token=token.token, probability=token.probability, margin=token.margin)
        last = draft_tokens[-1].token if draft_tokens else None
        result.is_end_of_generation = last in self._vocabulary.end_of_generation


def _refuse(request_id: int, status: status_pb2.Status) -> draft_pb2.ProposeResponse:
    return draft_pb2.ProposeResponse(request_id=request_id, error=status)


def _wrap(reply: draft_pb2.ProposeResponse) -> draft_pb2.ProposeStreamResponse:
    return draft_pb2.ProposeStreamResponse(response=reply)
