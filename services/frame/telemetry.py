"""Tracing and metrics by OpenTelemetry: switched on by the standard OTEL_* variables, free of cost otherwise.

| variable | effect |
|---|---|
| OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER | otlp, console or none, or several with commas |
| OTEL_EXPORTER_OTLP_ENDPOINT (or _TRACES_, _METRICS_) | otlp where the exporter is not named |
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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, TraceFlags

from services.frame.environment import unset_empty
from services.frame.startup import StartupError
from services.frame.tls import read_file

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

    from services.frame.recording import Recorder

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
_EXPORTERS = ("otlp", "console", "none")
# https://www.w3.org/TR/trace-context/#traceparent-header: later versions may append fields, version ff is invalid.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

# Sampled, and the random trace ids of level 2; other bits are not to be passed on.
_KNOWN_FLAGS = 0x03


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
    span_exporters = _exporters("TRACES")
    metric_exporters = _exporters("METRICS")
    if not span_exporters and not metric_exporters:
        return Telemetry.off()
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    # A collector that is away is told of when an export is given up, not with every try.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    name = os.environ.get("OTEL_SERVICE_NAME") or service_name
    try:
        resource = Resource.create({SERVICE_NAME: name})
        recorder = _recorder(resource, span_exporters) if span_exporters else None
        meter_provider = _meter_provider(resource, metric_exporters) if metric_exporters else None
    except StartupError:
        raise
    except Exception as error:  # nearly every variable has one of its own
        raise StartupError(f"an OTEL_ variable has a value that OpenTelemetry refuses: {error}") from error
    is_content_told = os.environ.get(_CONTENT_VARIABLE, "").strip().lower() in ("true", "span_only", "span_and_event")
    return Telemetry(recorder, meter_provider, is_content_told=is_content_told)


def observed(read: Callable[[], float]) -> Callable[[metrics.CallbackOptions], Iterable[metrics.Observation]]:
    """Return the callback of an observable instrument whose value is read whenever an exporter collects."""

    def observe(_options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        return [metrics.Observation(read())]

    return observe


def context_from_traceparent(traceparent: str) -> Context:
    """Return the context of a message's W3C `traceparent`, to be passed as the parent of a span.

    An empty or malformed one gives an empty context, and so a new root: a bad header must not fail a request.
    """
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[1] == "00" and match[5] is not None):
        return Context()
    span_context = SpanContext(
        trace_id=int(match[2], 16),
        span_id=int(match[3], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match[4], 16) & _KNOWN_FLAGS),
    )
    if not span_context.is_valid:
        return Context()
    return trace.set_span_in_context(NonRecordingSpan(span_context), Context())


class UnsampledSpan(NonRecordingSpan):
    """Records nothing, and hands the `traceparent` above it on as one that is not to be recorded."""

    def __init__(self, traceparent: str) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)
        self.traceparent = traceparent[:-1] + "0" if traceparent else ""


def traceparent_of(span: trace.Span) -> str:
    """Return the W3C `traceparent` of a span, empty where it has no valid context, as with telemetry off."""
    known: str | None = getattr(span, "traceparent", None)
    if known is not None:
        return known
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def _exporters(signal: str) -> list[str]:
    """Return the exporters that the environment names for TRACES or METRICS, without `none`."""
    variable = f"OTEL_{signal}_EXPORTER"
    names = [name.strip() for name in os.environ.get(variable, "").lower().split(",") if name.strip()]
    if not names:
        endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
        names = ["otlp"] if any(os.environ.get(endpoint) for endpoint in endpoints) else []
    for name in names:
        if name not in _EXPORTERS:
            raise StartupError(f"{variable} names {name!r}: only {', '.join(_EXPORTERS)} are supported")
    if "otlp" in names:
        for protocol in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            if os.environ.get(protocol, "grpc") != "grpc":
                raise StartupError(f"{protocol} is {os.environ[protocol]!r}: only grpc is supported")
        _check_files(signal)
    return [name for name in names if name != "none"]


def _check_files(signal: str) -> None:
    """Raise StartupError for a file of the exporter that cannot be read: the SDK would go on without it."""
    for kind in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):
        for variable in (f"OTEL_EXPORTER_OTLP_{signal}_{kind}", f"OTEL_EXPORTER_OTLP_{kind}"):
            if path := os.environ.get(variable):
                read_file(Path(path), variable)


def _recorder(resource: Resource, exporters: list[str]) -> Recorder:
    from services.frame.recording import Recorder

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return Recorder(resource, [_batches(_span_exporter(name)) for name in exporters])


def _batches(exporter: SpanExporter) -> BatchSpanProcessor:
    from opentelemetry.sdk.environment_variables import OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_SCHEDULE_DELAY
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Left to the SDK where the variables are set.
    return BatchSpanProcessor(
        exporter,
        max_queue_size=None if os.environ.get(OTEL_BSP_MAX_QUEUE_SIZE) else DEFAULT_SPAN_QUEUE,
        schedule_delay_millis=None if os.environ.get(OTEL_BSP_SCHEDULE_DELAY) else DEFAULT_EXPORT_DELAY_MS,
    )


def _span_exporter(name: str) -> SpanExporter:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        # Supervisors read stdout.
        return ConsoleSpanExporter(out=sys.stderr)
    from services.frame.otlp import LightSpanExporter

    return LightSpanExporter()


def _meter_provider(resource: Resource, exporters: list[str]) -> MeterProvider:
    from opentelemetry.sdk.metrics import MeterProvider

    return MeterProvider([_metric_reader(name) for name in exporters], resource=resource, shutdown_on_exit=False)


def _metric_reader(name: str) -> MetricReader:
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader

    if name == "console":
        return PeriodicExportingMetricReader(ConsoleMetricExporter(out=sys.stderr))
    from services.frame.otlp import MetricExporter

    return PeriodicExportingMetricReader(MetricExporter())
