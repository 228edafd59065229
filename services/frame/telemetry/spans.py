"""How a span is begun: for a client's request, for a message of a stream, or for a part of what is under way.

They are made by hand, as the messages of a stream have no metadata that an instrumentation of gRPC could read.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, get_current_span
from opentelemetry.util import types

from services.frame.telemetry.headers import TraceHeaders, UnsampledSpan, headers_of
from services.frame.telemetry.telemetry import Telemetry

_OFF = nullcontext(INVALID_SPAN)


class TraceContext(Protocol):
    """What messages carry of the trace that they belong to."""

    @property
    def traceparent(self) -> str:
        """As in a W3C header."""

    @property
    def tracestate(self) -> str:
        """As in a W3C header."""


def request_span(telemetry: Telemetry, name: str, headers: TraceHeaders) -> AbstractContextManager[Span]:
    """Run the block under the server span of a client's request, the current one. Errors are told on it."""
    if telemetry.recorder is None:
        return _OFF
    return telemetry.recorder.request(name, headers)


def server_span(telemetry: Telemetry, name: str, context: TraceContext) -> AbstractContextManager[Span]:
    """Run the block under a server span, the child of the one that a message names. Errors are told on it."""
    if telemetry.recorder is None:
        return _OFF
    return telemetry.recorder.message(name, TraceHeaders(context.traceparent, context.tracestate))


def child_span(telemetry: Telemetry, name: str, kind: SpanKind = SpanKind.INTERNAL) -> AbstractContextManager[Span]:
    """Run the block under a child of the span that this task is in. Errors are told on it.

    Where only requests are traced, it is no span of its own: its events go to the request's.
    """
    if telemetry.recorder is None:
        return _EventsOnly(get_current_span()) if telemetry.is_of_requests else _OFF
    return telemetry.recorder.child(name, kind)


class _EventsOnly(UnsampledSpan):
    """Stands for a span beneath a request's, and hands its events to that. Services below record nothing either."""

    def __init__(self, request: Span) -> None:
        super().__init__(headers_of(request))
        self._request = request

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        self._request.add_event(name, attributes, timestamp)
