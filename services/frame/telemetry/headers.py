"""W3C trace context: the headers that carry a trace from one program to the next, read and written.

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple, Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, TraceFlags, TraceState

# https://www.w3.org/TR/trace-context/#traceparent-header: later versions may append fields, version ff is invalid.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
# https://www.w3.org/TR/trace-context/#tracestate-limits, in characters.
_MOST_TRACESTATE = 512
# Sampled, and the random trace ids of level 2; other bits are not to be passed on.
_KNOWN_FLAGS = 0x03


class TraceHeaders(NamedTuple):
    """W3C trace context as it goes over the wire. Empty where nothing is traced."""

    traceparent: str = ""
    tracestate: str = ""

    @classmethod
    def of_metadata(cls, metadata: Iterable[tuple[str, Any]] | None) -> Self:
        """Return what a client sent. Lines of the same name are one list."""
        values: dict[str, list[str]] = {}
        for key, value in metadata or ():
            if isinstance(value, str):
                values.setdefault(key, []).append(value)
        return cls(values.get("traceparent", [""])[-1], ",".join(values.get("tracestate", ())))


NO_HEADERS = TraceHeaders()


def context_from(headers: TraceHeaders) -> Context:
    """Return the context of a message's trace headers, to be passed as the parent of a span.

    An empty or malformed `traceparent` gives an empty context, and so a new root: a bad header must not fail a request.
    """
    match = _TRACEPARENT.fullmatch(headers.traceparent)
    if match is None or (match[1] == "00" and match[5] is not None):
        return Context()
    span_context = SpanContext(
        trace_id=int(match[2], 16),
        span_id=int(match[3], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match[4], 16) & _KNOWN_FLAGS),
        trace_state=read_tracestate(headers.tracestate),
    )
    if not span_context.is_valid:
        return Context()
    return trace.set_span_in_context(NonRecordingSpan(span_context), Context())


def read_tracestate(tracestate: str) -> TraceState:
    """Return a W3C `tracestate`. It is empty where it is malformed, or longer than anybody has to pass on."""
    return _read_tracestate(tracestate if len(tracestate) <= _MOST_TRACESTATE else "")


@lru_cache(maxsize=256)
def _read_tracestate(tracestate: str) -> TraceState:
    return TraceState.from_header([tracestate] if tracestate else [])


class UnsampledSpan(NonRecordingSpan):
    """A span that records nothing. Its headers are those above it, marked so that nobody below records either."""

    def __init__(self, headers: TraceHeaders) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)
        traceparent, tracestate = headers
        self.headers = TraceHeaders(traceparent[:-1] + "0" if traceparent else "", tracestate)


def headers_of(span: trace.Span) -> TraceHeaders:
    """Return the trace headers of a span, empty where it has no valid context, as with telemetry off."""
    known: TraceHeaders | None = getattr(span, "headers", None)
    if known is not None:
        return known
    context = span.get_span_context()
    if not context.is_valid:
        return NO_HEADERS
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    return TraceHeaders(traceparent, context.trace_state.to_header())
