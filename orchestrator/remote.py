"""The draft service as the cycle sees it."""

import logging
import time
from collections.abc import Callable

import grpc
from opentelemetry.trace import Span, SpanKind, get_current_span

from orchestrator.breaker import Breaker
from orchestrator.drafter import Draft
from orchestrator.session import RemoteCache
from orchestrator.stream import SessionStream
from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from services.frame.digest import TokenSequence
from services.frame.errors import ServiceError
from services.frame.spans import child_span
from services.frame.telemetry import Telemetry

_log = logging.getLogger(__name__)
# The context is full, or the target refuses the request as well.
_REFUSALS = (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.INVALID_ARGUMENT)


class RemoteDrafter:
    """One session of the draft service. While the service is away, late or unwilling, its drafts are empty."""

    def __init__(
        self,
        stub: draft_pb2_grpc.DraftServiceStub,
        session_id: str,
        sampling: common_pb2.Sampling,
        telemetry: Telemetry,
        breaker: Breaker,
        *,
        vocabulary_size: int,
        timeout_s: float,
        most_draft_tokens: Callable[[], int],
        min_joint_confidence: float = 0.0,
    ) -> None:
        """`breaker` is shared by all sessions of a service; `vocabulary_size` is the target's.

        `most_draft_tokens` tells how many the service proposes at a time: another one may take its place.
        """
        self.num_fallbacks = 0
        self._cache = RemoteCache(session_id)
        self._stream: SessionStream[draft_pb2.ProposeStreamRequest, draft_pb2.ProposeResponse] = SessionStream(
            lambda: stub.ProposeStream(metadata=(("x-session-id", session_id),))
        )
        self._sampling = sampling
        self._telemetry = telemetry
        self._breaker = breaker
        self._vocabulary_size = vocabulary_size
        self._timeout_s = timeout_s
        self._most_draft_tokens = most_draft_tokens
        self._min_joint_confidence = min_joint_confidence
        self._is_attached = False
        self._is_refused = False

    @property
    def num_resyncs(self) -> int:
        """Times that the service had to be brought back to the sequence."""
        return self._cache.num_resyncs

    async def propose(self, sequence: TokenSequence, num_draft_tokens: int) -> Draft:
        """Return the service's draft, or an empty one."""
        num_draft_tokens = min(num_draft_tokens, self._most_draft_tokens())
        if num_draft_tokens < 1 or self._is_refused:
            return Draft()
        if not self._breaker.may_try():
            if self._is_attached:  # somebody else has found out
                self._detach(get_current_span(), self._breaker.reason)
            return Draft()
        started_s = time.perf_counter()
        with child_span(self._telemetry, "propose", SpanKind.CLIENT) as span:
            try:
                reply = await self._cache.ask(
                    sequence, span, lambda context, request_id: self._send(context, request_id, num_draft_tokens)
                )
            except (ServiceError, TimeoutError) as error:
                self._fall_back(span, error)
                return Draft(waited_s=time.perf_counter() - started_s, drafter="remote")
            self._attach(span)
            tokens = self._known(reply)
            self._cache.learn(sequence, reply.held_length, tokens)
        return Draft(tokens, time.perf_counter() - started_s, reply.timings.computed_ms / 1e3, "remote")

    async def close(self) -> None:
        """Release the session and end its stream."""
        await self._stream.send(draft_pb2.ProposeStreamRequest(release=common_pb2.ReleaseMessage()))
        await self._stream.close()

    async def _send(
        self, context: common_pb2.Context, request_id: int, num_draft_tokens: int
    ) -> draft_pb2.ProposeResponse:
        request = draft_pb2.ProposeRequest(
            request_id=request_id,
            timeout_ms=int(self._timeout_s * 1e3),
            context=context,
            num_draft_tokens=num_draft_tokens,
            min_joint_confidence=self._min_joint_confidence,
            sampling=self._sampling,
        )
        message = draft_pb2.ProposeStreamRequest(propose=request)
        return await self._stream.ask(request_id, message, self._timeout_s)

    def _known(self, reply: draft_pb2.ProposeResponse) -> list[int]:
        """Return the draft tokens up to the first that the target does not have."""
        tokens: list[int] = []
        for draft_token in reply.result.draft_tokens:
            if draft_token.token >= self._vocabulary_size:
                break
            tokens.append(draft_token.token)
        return tokens

    def _fall_back(self, span: Span, error: ServiceError | TimeoutError) -> None:
        reason = error.message if isinstance(error, ServiceError) else f"no draft within {self._timeout_s:g} s"
        # A service that refuses what it is asked is well: other sessions may go on with it. One that takes shorter
        # drafts than it told is another service, which will be asked what it takes.
        self._is_refused = (
            isinstance(error, ServiceError) and error.code in _REFUSALS and error.reason != "DRAFT_TOO_LONG"
        )
        if not self._is_refused:
            if not self._breaker.is_open:
                _log.warning("the draft service is lost, decoding goes on without it: %s", reason)
            self._breaker.fail(reason)
        self._detach(span, reason)

    def _detach(self, span: Span, reason: str) -> None:
        if self._is_attached:
            self.num_fallbacks += 1
            self._is_attached = False
        span.add_event("outrider.fallback", {"outrider.reason": reason})
        self._cache.forget()

    def _attach(self, span: Span) -> None:
        if self._breaker.is_open:
            _log.info("the draft service is back")
        self._breaker.succeed()
        if not self._is_attached:
            self._is_attached = True
            span.add_event("outrider.attach")
