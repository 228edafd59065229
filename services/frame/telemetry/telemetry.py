"""What records the spans and the metrics of one service, how a span is begun, and the headers that carry a trace on.

Where nothing is asked for nothing is recorded, and all of it is free. Spans are made by hand, as the messages of a
stream have no metadata that an instrumentation of gRPC could read. The headers are W3C's trace context,
https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from opentelemetry import metrics
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util import types

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider

    from services.frame.telemetry.prometheus import PrometheusPage

# How long the end of a process may wait for a collector.
SHUTDOWN_S = 5.0

_logger = logging.getLogger(__name__)
_OFF = nullcontext(INVALID_SPAN)
# https://www.w3.org/TR/trace-context/#traceparent-header: later versions may append fields, version ff is invalid.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
# https://www.w3.org/TR/trace-context/#tracestate-limits, in characters.
_MOST_TRACESTATE = 512
# Sampled, and the random trace ids of level 2; other bits are not to be passed on.
_KNOWN_FLAGS = 0x03


class TraceContext(Protocol):
    """What messages carry of the trace that they belong to."""

    @property
    def traceparent(self) -> str:
        """As in a W3C header."""

    @property
    def tracestate(self) -> str:
        """As in a W3C header."""


class SpanRecorder(Protocol):
    """Begins spans where tracing is on; see `recording.Recorder`, which needs the SDK."""

    def request(self, name: str, headers: TraceHeaders) -> AbstractContextManager[Span]:
        """Begin the span of a client's request."""

    def message(self, name: str, headers: TraceHeaders) -> AbstractContextManager[Span]:
        """Begin the span of a message that a service got from another."""

    def child(self, name: str, kind: SpanKind) -> AbstractContextManager[Span]:
        """Begin a span under the one that the running task is in."""

    def shutdown(self) -> None:
        """Send what is still queued and stop the exporters."""


class Telemetry:
    """The recorder of one service's spans and the meter of its metrics, and how both are brought to an end.

    No global provider is set, so that several services can live in one process, each under its own name. Without a
    recorder spans do nothing, and without a provider instruments do nothing.
    """

    def __init__(
        self,
        recorder: SpanRecorder | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        is_of_requests: bool = False,
        is_content_told: bool = False,
        page: PrometheusPage | None = None,
    ) -> None:
        """With `is_of_requests` somebody else records the request, and its span gets the events of what is within it.

        With `is_content_told` the spans of requests may hold what users write and what they are answered. `page` has
        what the provider measures, for Prometheus.
        """
        self.recorder = recorder
        self._meter_provider = meter_provider
        self.is_of_requests = is_of_requests
        self.is_content_told = is_content_told
        self.page = page
        self.is_metering = meter_provider is not None
        meters: metrics.MeterProvider = meter_provider or metrics.NoOpMeterProvider()
        self.meter: metrics.Meter = meters.get_meter("outrider")

    @classmethod
    def off(cls) -> Telemetry:
        """Return telemetry that records nothing."""
        return cls()

    def of_requests(self) -> Telemetry:
        """Return the telemetry of what happens within a request, where only requests are to have spans."""
        return Telemetry(is_of_requests=self.recorder is not None)

    def shutdown(self) -> None:
        """Send what is still queued and stop the exporters. A collector that is away is not waited for."""
        parts = [part for part in (self.recorder, self._meter_provider) if part is not None]
        closing = [threading.Thread(target=part.shutdown, daemon=True) for part in parts]
        for thread in closing:
            thread.start()
        # The SDK's own limits add up to a minute.
        deadline_s = time.monotonic() + SHUTDOWN_S
        for thread in closing:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        if any(thread.is_alive() for thread in closing):
            _logger.warning("telemetry could not be sent within %g s, what is left of it is lost", SHUTDOWN_S)


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
    return set_span_in_context(NonRecordingSpan(span_context), Context())


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


def headers_of(span: Span) -> TraceHeaders:
    """Return the trace headers of a span, empty where it has no valid context, as with telemetry off."""
    known: TraceHeaders | None = getattr(span, "headers", None)
    if known is not None:
        return known
    context = span.get_span_context()
    if not context.is_valid:
        return NO_HEADERS
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
    return TraceHeaders(traceparent, context.trace_state.to_header())


class _EventsOnly(UnsampledSpan):
    """Stands for a span beneath a request's, and hands its events to that. Services below record nothing either."""

    def __init__(self, request: Span) -> None:
        super().__init__(headers_of(request))
        self._request = request

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        self._request.add_event(name, attributes, timestamp)


def observed(read: Callable[[], float]) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
    """Return the callback of an observable instrument whose value is read whenever an exporter collects."""

    def observe(_options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return [metrics.Observation(read())]

    return observe
