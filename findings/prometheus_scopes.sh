#!/usr/bin/env bash
# opentelemetry-exporter-prometheus 0.66b2: where two meters have an instrument of the same name, unit and description,
# with other attributes, the labels of the second are those of the first with its own values in them. One expects each
# series with its own labels, or a warning: instruments of equal names in two scopes are valid, and the meters' names
# (`otel_scope_name`) are there to tell them apart. Without these labels (`scope_info_enabled=False`) the values fall
# below foreign names; with them, one label more or less moves all that follow. Seen, for a second meter "engine"
# that counted 5 with phase="decode":
#   without scopes: tokens_total{model="decode"} 5.0
#   with scopes, and one label more in the first: tokens_total{kind="engine",model="",otel_scope_name="",...} 5.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    opentelemetry-exporter-prometheus==0.66b2 opentelemetry-sdk==1.45.2 prometheus-client==0.26.0
"$folder/venv/bin/python" - <<'END'
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

def second(first_attributes, scope_info_enabled):
    """Return the line of the second meter's counter."""
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(scope_info_enabled=scope_info_enabled, registry=registry)
    provider = MeterProvider(metric_readers=[reader])
    provider.get_meter("server").create_counter("tokens").add(3, first_attributes)
    provider.get_meter("engine").create_counter("tokens").add(5, {"phase": "decode"})
    lines = generate_latest(registry).decode().splitlines()
    return next(line for line in lines if line.startswith("tokens_total") and line.endswith(" 5.0"))

plain = second({"model": "a"}, False)
scoped = second({"model": "a", "kind": "b"}, True)
print("without scopes:", plain)
print("with scopes, and one label more in the first:", scoped)
assert plain == 'tokens_total{model="decode"} 5.0' and 'phase="decode"' not in scoped
END
