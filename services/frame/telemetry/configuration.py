"""What the environment says about tracing and metrics, read once at start-up, and the SDK's parts that it asks for.

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
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.frame.program.environment import unset_empty
from services.frame.program.startup import StartupError
from services.frame.program.version import VERSION
from services.frame.telemetry.exporters import CONSOLE, HTTP, Exporter, named_exporters
from services.frame.telemetry.telemetry import Telemetry

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

    from services.frame.telemetry.prometheus import PrometheusPage
    from services.frame.telemetry.recording import Recorder

# A cycle makes about five spans, and the SDK's own 2,048 overflow within a second of a busy orchestrator.
DEFAULT_SPAN_QUEUE = 65536
# The SDK's own five seconds are long for somebody who waits at a page, and lost when a process is killed.
DEFAULT_EXPORT_DELAY_MS = 1000
# How long others wait for an exporter's thread while it encodes spans, which takes it milliseconds.
SWITCH_INTERVAL_S = 0.0001

_CONTENT_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_PROPAGATORS = ("tracecontext", "none")


def configure_telemetry(service_name: str, *, has_page: bool = False) -> Telemetry:
    """Return the telemetry that the environment asks for, under `service_name` where OTEL_SERVICE_NAME is not set.

    With `has_page` metrics are measured for Prometheus too, whatever exporters there are, unless all is disabled.

    Raises StartupError for a value that we cannot honour.
    """
    unset_empty("OTEL_")
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Telemetry.off()
    spans, readings = named_exporters("TRACES"), named_exporters("METRICS")
    if not (spans or readings or has_page):
        return Telemetry.off()
    is_parent_taken = _is_parent_taken()
    # The SDK warns with every try; that an export was given up is said once, as an error.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    # It warns of whatever a client writes into a header.
    logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)
    try:
        resource = _resource(service_name)
        recorder = _recorder(resource, spans, is_parent_taken=is_parent_taken) if spans else None
        page = _page() if has_page else None
        meter_provider = _meter_provider(resource, readings, page) if readings or page is not None else None
    except (StartupError, ModuleNotFoundError):
        raise
    except Exception as error:  # the SDK has another kind for nearly every variable
        # Some of its sentences have several lines.
        sentence = " ".join(str(error).split())
        raise StartupError(f"an OTEL_ variable has a value that OpenTelemetry refuses: {sentence}") from error
    is_content_told = os.environ.get(_CONTENT_VARIABLE, "").strip().lower() in ("true", "span_only", "span_and_event")
    return Telemetry(recorder, meter_provider, is_content_told=is_content_told, page=page)


def named_service() -> str:
    """Return the name that the environment gives to our services, empty where it gives none."""
    named = os.environ.get("OTEL_SERVICE_NAME", "")
    if named or "service.name" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        return named
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector

    return str(OTELResourceDetector().detect().attributes.get(SERVICE_NAME, ""))


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
    """Return the resource that spans and metrics belong to: our name and version, unless the environment has others."""
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

    # Where the variables are set, the SDK reads them.
    return BatchSpanProcessor(
        exporter,
        max_queue_size=None if os.environ.get(OTEL_BSP_MAX_QUEUE_SIZE) else DEFAULT_SPAN_QUEUE,
        schedule_delay_millis=None if os.environ.get(OTEL_BSP_SCHEDULE_DELAY) else DEFAULT_EXPORT_DELAY_MS,
    )


def _span_exporter(exporter: Exporter) -> SpanExporter:
    if exporter == CONSOLE:
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        # Not to stdout, which supervisors read.
        return ConsoleSpanExporter(out=sys.stderr)
    if exporter.protocol == HTTP:
        from services.frame.telemetry.otlp_http import HttpSpanExporter

        return HttpSpanExporter(exporter)
    from services.frame.telemetry.otlp import GrpcSpanExporter

    return GrpcSpanExporter(exporter)


def _page() -> PrometheusPage:
    from services.frame.telemetry.prometheus import PrometheusPage

    return PrometheusPage()


def _meter_provider(
    resource: Resource, exporters: Sequence[Exporter], page: PrometheusPage | None = None
) -> MeterProvider:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader

    readers: list[MetricReader] = [] if page is None else [page.reader]
    readers += [PeriodicExportingMetricReader(_metric_exporter(exporter)) for exporter in exporters]
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
