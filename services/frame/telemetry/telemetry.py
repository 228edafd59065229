"""Tracing and metrics by OpenTelemetry: switched on by the standard OTEL_* variables, free of cost otherwise.

| variable | effect |
|---|---|
| OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER | otlp, console or none, or several with commas |
| OTEL_EXPORTER_OTLP_ENDPOINT (or _TRACES_, _METRICS_) | otlp where the exporter is not named |
| OTEL_EXPORTER_OTLP_PROTOCOL (or _TRACES_, _METRICS_) | grpc, the default, or http/protobuf |
| OTEL_SDK_DISABLED=true | everything off |
| OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=true | prompts and generated text are on the request's span |
| OTEL_BSP_*, OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME, ... | as the SDK reads them |

The SDK and its exporters are imported only where they are asked for: they cost start-up time and threads.
"""

# ruff: noqa: PLC0415  the imports inside functions are the ones that must not happen when telemetry is off

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, TraceFlags, TraceState

from services.frame.program.environment import unset_empty
from services.frame.program.startup import StartupError
from services.frame.program.version import VERSION
from services.frame.telemetry.exporters import CONSOLE, HTTP, Exporter, named_exporters

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

    from services.frame.telemetry.recording import Recorder

# A cycle makes about five spans, and the SDK's own 2,048 overflow within a second of a busy orchestrator.
DEFAULT_SPAN_QUEUE = 65536
# The SDK's own five seconds are long for somebody who waits at a page, and lost when a process is killed.
DEFAULT_EXPORT_DELAY_MS = 1000
# How long others wait for an exporter's thread while it encodes spans, which takes it milliseconds.
SWITCH_INTERVAL_S = 0.0001
# How long the end of a process may wait for a collector.
SHUTDOWN_S = 5.0

_logger = logging.getLogger(__name__)
_CONTENT_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
# https://www.w3.org/TR/trace-context/#traceparent-header: later versions may append fields, version ff is invalid.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
# https://www.w3.org/TR/trace-context/#tracestate-limits, in characters.
_MOST_TRACESTATE = 512
_PROPAGATORS = ("tracecontext", "none")

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


class Telemetry:
    """What records the spans of one service, and its meter, with what is needed to flush them.

    No global provider is set, so that several services can live in one process, each under its own name. Without a
    recorder spans do nothing, without a provider instruments do nothing.
    """

    def __init__(
        self,
        recorder: Recorder | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        is_of_requests: bool = False,
        is_content_told: bool = False,
    ) -> None:
        """Make it.

        `is_of_requests`: somebody else records the request, and its span is to have the events.
        `is_content_told`: spans of requests may hold what users write and what they are answered.
        """
        self.recorder = recorder
        self._meter_provider = meter_provider
        self.is_of_requests = is_of_requests
        self.is_content_told = is_content_told
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


def configure_telemetry(service_name: str) -> Telemetry:
    """Return the telemetry that the environment asks for, under `service_name` where OTEL_SERVICE_NAME is not set.

    Raises StartupError for a value that we cannot honour.
    """
    unset_empty("OTEL_")
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Telemetry.off()
    spans, readings = named_exporters("TRACES"), named_exporters("METRICS")
    if not spans and not readings:
        return Telemetry.off()
    is_parent_taken = _is_parent_taken()
    # A collector that is away is told of when an export is given up, not with every try.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    # What a client writes into a header is no trouble of ours.
    logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)
    try:
        resource = _resource(service_name)
        recorder = _recorder(resource, spans, is_parent_taken=is_parent_taken) if spans else None
        meter_provider = _meter_provider(resource, readings) if readings else None
    except (StartupError, ModuleNotFoundError):
        raise
    except Exception as error:  # nearly every variable has one of its own
        # Some of its sentences are indented within.
        sentence = " ".join(str(error).split())
        raise StartupError(f"an OTEL_ variable has a value that OpenTelemetry refuses: {sentence}") from error
    is_content_told = os.environ.get(_CONTENT_VARIABLE, "").strip().lower() in ("true", "span_only", "span_and_event")
    return Telemetry(recorder, meter_provider, is_content_told=is_content_told)


def named_service() -> str:
    """Return the name that the environment gives to a service, empty where it gives none."""
    named = os.environ.get("OTEL_SERVICE_NAME", "")
    if named or "service.name" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        return named
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector

    return str(OTELResourceDetector().detect().attributes.get(SERVICE_NAME, ""))


def observed(read: Callable[[], float]) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
    """Return the callback of an observable instrument whose value is read whenever an exporter collects."""

    def observe(_options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return [metrics.Observation(read())]

    return observe


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
    """Return a W3C `tracestate`, empty where it is longer than anybody has to pass on, or malformed."""
    return _read_tracestate(tracestate if len(tracestate) <= _MOST_TRACESTATE else "")


@lru_cache(maxsize=256)
def _read_tracestate(tracestate: str) -> TraceState:
    return TraceState.from_header([tracestate] if tracestate else [])


class UnsampledSpan(NonRecordingSpan):
    """Records nothing, and hands the trace headers above it on as those of a trace that is not to be recorded."""

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


def _is_parent_taken() -> bool:
    """Whether OTEL_PROPAGATORS lets our spans be children of those of callers. Raises StartupError."""
    names = [name.strip() for name in os.environ.get("OTEL_PROPAGATORS", "tracecontext").split(",") if name.strip()]
    for name in names:
        if name not in _PROPAGATORS:
            raise StartupError(
                f"OTEL_PROPAGATORS names {name!r}: only {' and '.join(_PROPAGATORS)} are supported, unset is the first"
            )
    return "none" not in names


def _resource(service_name: str) -> Resource:
    """Return what the environment says of the service, with our own name and version where it says nothing."""
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource

    said = OTELResourceDetector().detect().attributes
    own = {SERVICE_NAME: service_name, SERVICE_VERSION: VERSION}
    return Resource.create({key: value for key, value in own.items() if not said.get(key)})


def _recorder(resource: Resource, exporters: Sequence[Exporter], *, is_parent_taken: bool) -> Recorder:
    from services.frame.telemetry.recording import Recorder

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    processors = [_batches(_span_exporter(exporter)) for exporter in exporters]
    return Recorder(resource, processors, is_parent_taken=is_parent_taken)


def _batches(exporter: SpanExporter) -> BatchSpanProcessor:
    from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_SCHEDULE_DELAY
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Left to the SDK where the variables are set.
    return BatchSpanProcessor(
        exporter,
        max_queue_size=None if os.environ.get(OTEL_BSP_MAX_QUEUE_SIZE) else DEFAULT_SPAN_QUEUE,
        schedule_delay_millis=None if os.environ.get(OTEL_BSP_SCHEDULE_DELAY) else DEFAULT_EXPORT_DELAY_MS,
    )


def _span_exporter(exporter: Exporter) -> SpanExporter:
    if exporter == CONSOLE:
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        # Supervisors read stdout.
        return ConsoleSpanExporter(out=sys.stderr)
    if exporter.protocol == HTTP:
        from services.frame.telemetry.otlp_http import HttpSpanExporter

        return HttpSpanExporter(exporter)
    from services.frame.telemetry.otlp import GrpcSpanExporter

    return GrpcSpanExporter(exporter)


def _meter_provider(resource: Resource, exporters: Sequence[Exporter]) -> MeterProvider:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    readers = [PeriodicExportingMetricReader(_metric_exporter(exporter)) for exporter in exporters]
    return MeterProvider(readers, resource=resource, shutdown_on_exit=False)


def _metric_exporter(exporter: Exporter) -> MetricExporter:
    if exporter == CONSOLE:
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        return ConsoleMetricExporter(out=sys.stderr)
    if exporter.protocol == HTTP:
        from services.frame.telemetry.otlp_http import HttpMetricExporter

        return HttpMetricExporter(exporter)
    from services.frame.telemetry.otlp import GrpcMetricExporter

    return GrpcMetricExporter(exporter)
