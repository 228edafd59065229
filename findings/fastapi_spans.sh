#!/usr/bin/env bash
# fastapi 0.165.0: a program that sets a tracer provider and a meter provider for its own spans and metrics, those of
# generations, say, gets four spans and two metrics more for every HTTP request. Nothing was instrumented: FastAPI
# itself takes whatever global provider there is. One expects that of opentelemetry-instrumentation-fastapi, which is
# not installed here. `FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})` ends it. Seen:
#   spans by default: fastapi.dependencies, fastapi.endpoint, fastapi.serialization, GET /health; turned off: none
#   metrics by default: http.server.active_requests, http.server.request.duration; turned off: none
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    fastapi==0.165.0 opentelemetry-sdk==1.45.2 httpx2==2.16.2
"$folder/venv/bin/python" - <<'END'
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans, reader, tracers = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))

def asked_once(**options):
    """Return the names of spans and of metrics after one request."""
    spans.clear()
    app = FastAPI(**options)
    app.get("/health")(lambda: {})
    assert TestClient(app).get("/health").status_code == 200
    data = reader.get_metrics_data()
    scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
    named = [metric.name for scope in scopes for metric in scope.metrics]
    return [span.name for span in spans.get_finished_spans()], named

off = asked_once(telemetry={"tracing": False, "metrics": False, "logs": False})
default = asked_once()
for kind, names, others in zip(("spans", "metrics"), default, off):
    print(f"{kind} by default: {', '.join(names)}; turned off: {', '.join(others) or 'none'}")
assert off == ([], []) and len(default[0]) == 4 and len(default[1]) == 2 and "GET /health" in default[0]
END
