"""Spans made by hand: one for each message, as the messages of a stream have no metadata of their own."""

import asyncio
from contextlib import AbstractContextManager, nullcontext
from contextvars import Token
from types import TracebackType

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util import types

from services.frame.errors import ServiceError
from services.frame.telemetry import Telemetry, context_from_traceparent

_OFF = nullcontext(INVALID_SPAN)


def request_span(telemetry: Telemetry, name: str, traceparent: str) -> AbstractContextManager[Span]:
    """Run the block under the server span of a client's request. Errors are told on it.

    It is the SDK's own, with all of the SDK's limits: what clients write ends up in it.
    """
    if telemetry.recorder is None:
        return _OFF
    tracer = telemetry.recorder.tracer
    return _Current(tracer.start_span(name, context_from_traceparent(traceparent), SpanKind.SERVER))


def server_span(telemetry: Telemetry, name: str, traceparent: str) -> AbstractContextManager[Span]:
    """Run the block under a server span, the child of the message's `traceparent`. Errors are told on it."""
    if telemetry.recorder is None:
        return _OFF
    return _Current(telemetry.recorder.begin(name, SpanKind.SERVER, context_from_traceparent(traceparent)))


def child_span(telemetry: Telemetry, name: str, kind: SpanKind = SpanKind.INTERNAL) -> AbstractContextManager[Span]:
    """Run the block under a child of the span under way in this task. Errors are told on it.

    Where only requests are traced, it has no span of its own: its events are the request's.
    """
    if telemetry.recorder is None:
        return nullcontext(_EventsOnly(get_current_span())) if telemetry.is_of_requests else _OFF
    return _Current(telemetry.recorder.begin(name, kind))


class _Current(AbstractContextManager[Span]):
    """Makes a span the current one for a block, and ends it with the block."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Span:
        self._token: Token[Context] = attach(set_span_in_context(self._span))
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        detach(self._token)
        if error is not None:
            _tell(self._span, error)
        self._span.end()


def _tell(span: Span, error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        # Nothing went wrong here: nobody waits for the answer any more.
        span.add_event("outrider.cancelled")
        return
    span.set_attribute("error.type", error.reason if isinstance(error, ServiceError) else type(error).__qualname__)
    span.record_exception(error)
    span.set_status(StatusCode.ERROR, str(error))


class _EventsOnly(NonRecordingSpan):
    """Stands for the spans beneath a request's. Services that get its ids are told not to record spans of their own."""

    def __init__(self, request: Span) -> None:
        context = request.get_span_context()
        # Not sampled.
        super().__init__(SpanContext(context.trace_id, context.span_id, False, TraceFlags(), context.trace_state))
        self._request = request

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        self._request.add_event(name, attributes, timestamp)
