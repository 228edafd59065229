"""Tracing and metrics by OpenTelemetry: switched on by the standard OTEL_* variables, free of cost otherwise.

This is the door: whoever is outside imports from here and from no module of this folder. Importing it does not import
OpenTelemetry's SDK, which costs start-up time and threads; that happens in `configuration`, where a variable asks for
it. So `recording`, which needs the SDK, is not imported here: tests and benchmarks that make a `Recorder` of their own
take it from there.

Read `configuration` first, which lists the variables, then `telemetry`. Before you touch `recording`, `otlp` or
`otlp_http`: they must tell what the SDK's own spans and encoder would tell, and they use its private parts, so that
pyproject.toml holds its version; benchmarks/spans.py says what they save.
"""

from services.frame.telemetry.configuration import (
    DEFAULT_EXPORT_DELAY_MS,
    DEFAULT_SPAN_QUEUE,
    configure_telemetry,
    named_service,
)
from services.frame.telemetry.telemetry import (
    NO_HEADERS,
    SHUTDOWN_S,
    Telemetry,
    TraceHeaders,
    child_span,
    headers_of,
    observed,
    request_span,
    server_span,
)

__all__ = [
    "DEFAULT_EXPORT_DELAY_MS",
    "DEFAULT_SPAN_QUEUE",
    "NO_HEADERS",
    "SHUTDOWN_S",
    "Telemetry",
    "TraceHeaders",
    "child_span",
    "configure_telemetry",
    "headers_of",
    "named_service",
    "observed",
    "request_span",
    "server_span",
]
