"""TargetService: verification over both carriers."""

import grpc
from opentelemetry.trace import Span

from outrider.v1 import common_pb2, target_pb2
from services.engine.model.vocabulary import Vocabulary
from services.engine.scheduling.engine import Engine
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
from services.frame.rpc.limits import MAX_LOG_PROBABILITIES, MAX_SCORED_TOKENS
from services.frame.server import FrameServer
from services.target.chat_templates import ChatTemplates
from services.target.text_servicer import TextServicer
from services.target.verification import ScoringWork, VerificationWork

# Rows with logits in a decode, where the numbers of rows do not matter to the bit.
_MOST_SCORED_ROWS = 64


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
        params = checked_sampling(request.sampling, size, self._vocabulary.suppressed)
        is_exact = self._info.exact_mode != common_pb2.EXACT_MODE_OFF
        if request.num_scored_tokens:
            _check_scoring(request)
            return ScoringWork(
                prefix,
                request.num_scored_tokens,
                params,
                self._vocabulary.end_of_generation,
                # Exactness was tried with the rows of drafts.
                most_rows=1 + self._info.max_draft_tokens if is_exact else _MOST_SCORED_ROWS,
                is_exact=is_exact,
                num_log_probabilities=num_log_probabilities,
                deadline_s=deadline_s(request.timeout_ms),
            )
        return VerificationWork(
            prefix,
            draft_tokens,
            params,
            self._vocabulary.end_of_generation,
            is_exact=is_exact,
            num_log_probabilities=num_log_probabilities,
            chances=chances,
            quote_version=request.quote_version if request.HasField("quote_version") else None,
            deadline_s=deadline_s(request.timeout_ms),
        )

    def trace(self, span: Span, result: target_pb2.VerifyBatchResult) -> None:
        """Say how much of the draft stood."""
        span.set_attribute("outrider.cycle.num_accepted", result.num_accepted)


def _check_scoring(request: target_pb2.VerifyBatchRequest) -> None:
    """Raise ServiceError where tokens of the context cannot be scored."""
    if request.draft_tokens:
        raise invalid_argument("INVALID_REQUEST", "draft_tokens", "where tokens are scored there is no draft")
    if request.num_scored_tokens > MAX_SCORED_TOKENS:
        raise invalid_argument(
            "INVALID_REQUEST", "num_scored_tokens", f"at most {MAX_SCORED_TOKENS} are scored at once"
        )
    if request.num_scored_tokens >= len(request.context.tokens):
        raise invalid_argument(
            "INVALID_REQUEST", "num_scored_tokens", "context.tokens must begin before the first token that is scored"
        )


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
