"""The draft model by itself, in the place of the target: what it proposes is the text."""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import grpc
from opentelemetry.trace import Span, SpanKind

from orchestrator.drafting.draft_view import DraftView
from orchestrator.peers.patient_session import PatientSession
from orchestrator.peers.target import Verification
from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc, target_pb2
from services.frame.rpc.errors import ServiceError
from services.frame.telemetry import Telemetry, child_span
from services.session.client import ServiceSession
from services.session.sequence import TokenSequence

# Tokens are proposed together, and told one by one, as long as they take no longer than this: a text should flow.
_MOST_S = 0.05


class DraftModelSession(PatientSession[draft_pb2.ProposeStreamRequest, draft_pb2.ProposeResponse]):
    """One session of the draft service, which decides every token.

    It samples its own logits under the noise of the seed and the position, as a target does, so that its proposals are
    what plain decoding of it says.
    """

    name = "draft"

    def __init__(
        self,
        stub: draft_pb2_grpc.DraftServiceStub,
        session_id: str,
        view: DraftView,
        telemetry: Telemetry,
        *,
        model: common_pb2.ModelInfo,
        describe: Callable[[], Awaitable[common_pb2.ModelInfo]],
        patience_s: float,
        max_length: int,
        vocabulary_size: int,
    ) -> None:
        """Open a session on the draft that serves `model`, with `describe` and `patience_s` as `PatientSession` has.

        `view` is the request as the draft may see it, and `vocabulary_size` that of its prompt. Nothing is proposed
        beyond a sequence of `max_length`.
        """
        super().__init__(
            ServiceSession(session_id, lambda: stub.ProposeStream(metadata=(("x-session-id", session_id),))),
            telemetry,
            model=model,
            describe=describe,
            patience_s=patience_s,
        )
        view.look_from(model)
        self._view = view
        self._lacks_ids = model.vocabulary_size < vocabulary_size
        self._max_length = max_length
        self._ahead: deque[int] = deque()
        self._is_end = False
        self._token_s = _MOST_S

    async def verify(
        self, sequence: TokenSequence, draft_tokens: Sequence[int], chances: Sequence[float] | None = None
    ) -> Verification:
        """Return the token that follows the sequence, which has grown by the one before it. There are no draft tokens.

        Raises:
            ServiceError: the draft refused, or was away for longer than the patience lasts.
            ContextFullError: the sequence is as long as the draft's context, or a message to it.
        """
        assert not draft_tokens, "nobody drafts for the draft model"
        started_s = time.perf_counter()
        timings = common_pb2.Timings()
        if not self._ahead:
            with child_span(self._telemetry, "propose", SpanKind.CLIENT) as span:
                reply = await self._answer(span, lambda: self._attempt(sequence, span))
            timings = reply.timings
            tokens = [each.token for each in reply.result.draft_tokens]
            self._ahead.extend(tokens)
            self._is_end = reply.result.is_end_of_generation
            self._token_s = timings.computed_ms / 1e3 / len(tokens)
        token = self._ahead.popleft()
        is_end = self._is_end and not self._ahead
        return Verification(
            target_pb2.VerifyBatchResult(next_token=token, is_end_of_generation=is_end),
            0,
            time.perf_counter() - started_s,
            timings.computed_ms / 1e3,
            timings.decode_ms / 1e3,
            timings.batch_rows,
            timings.queued_ms / 1e3,
            num_cached_tokens=timings.num_cached_tokens,
        )

    async def close(self) -> None:
        """Release the session and end its stream."""
        await self._session.send(draft_pb2.ProposeStreamRequest(release=common_pb2.ReleaseMessage()))
        await self._session.close()

    async def _attempt(self, sequence: TokenSequence, span: Span) -> draft_pb2.ProposeResponse:
        """Ask whoever is the draft now for the next tokens, at least one. Raises ServiceError."""
        length = len(sequence)
        room = min(self._room(length), self._max_length - length)
        number = max(1, min(room, int(_MOST_S / self._token_s) if self._token_s else room))
        seen = await self._view.sequence(sequence) if self._lacks_ids else sequence
        reply = await self._session.request(
            seen, span, lambda context, request_id: self._send(context, request_id, number)
        )
        tokens = [each.token for each in reply.result.draft_tokens]
        if not tokens:
            raise ServiceError(grpc.StatusCode.INTERNAL, "INTERNAL", "the draft proposed nothing")
        self._session.learn(seen, reply.held_length, tokens)
        return reply

    async def _send(self, context: common_pb2.Context, request_id: int, number: int) -> draft_pb2.ProposeResponse:
        request = draft_pb2.ProposeRequest(
            request_id=request_id,
            context=context,
            num_draft_tokens=number,
            sampling=self._view.sampling,
            tokenizer_fingerprint=self._model.tokenizer_fingerprint,
        )
        return await self._session.exchange(request_id, draft_pb2.ProposeStreamRequest(propose=request), None)
