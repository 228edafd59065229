"""Where draft tokens come from: the remote draft service, or nowhere."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc
from opentelemetry.trace import Span, SpanKind, get_current_span

from orchestrator.breaker import Breaker
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


@dataclass(frozen=True)
class Draft:
    """Draft tokens, and the time they took: waited for, and computed by the service's account."""

    tokens: Sequence[int] = ()
    waited_s: float = 0.0
    computed_s: float = 0.0


class Drafter(Protocol):
    """Proposes tokens. Whatever goes wrong, it answers: an empty draft is plain decoding."""

    name: str
    num_fallbacks: int

    @property
    def num_resyncs(self) -> int:
        """Times that a service had to be brought back to the sequence."""

    async def propose(self, sequence: TokenSequence, num_draft_tokens: int) -> Draft:
        """Return at most so many tokens that may follow the sequence."""

    async def close(self) -> None:
        """The generation is over."""


class NoDrafter:
    """Proposes nothing."""

    name = "none"
    num_resyncs = 0
    num_fallbacks = 0

    async def propose(self, sequence: TokenSequence, num_draft_tokens: int) -> Draft:
        """Return an empty draft."""
        return Draft()

    async def close(self) -> None:
        """Do nothing."""


class RemoteDrafter:
    """One session of the draft service. While the service is away, late or unwilling, its drafts are empty."""

    name = "remote"

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
    ) -> None:
        """`breaker` is shared by all sessions of a service; `vocabulary_size` is the target's."""
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
        self._is_attached = False
        self._is_refused = False

    @property
    def num_resyncs(self) -> int:
        """Times that the service had to be brought back to the sequence."""
        return self._cache.num_resyncs

    async def propose(self, sequence: TokenSequence, num_draft_tokens: int) -> Draft:
        """Return the service's draft, or an empty one."""
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
                return Draft(waited_s=time.perf_counter() - started_s)
            self._attach(span)
            tokens = self._known(reply)
            self._cache.learn(sequence, reply.held_length, tokens)
        return Draft(tokens, time.perf_counter() - started_s, reply.timings.computed_ms / 1e3)

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
        # A service that refuses what it is asked is well: other sessions may go on with it.
        self._is_refused = isinstance(error, ServiceError) and error.code in _REFUSALS
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
