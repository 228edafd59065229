import subprocess
import sys

import pytest

from services.frame.program.startup import StartupError
from services.frame.program.version import VERSION
from services.frame.telemetry import (
    NO_HEADERS,
    TraceHeaders,
    configure_telemetry,
    named_service,
)


def test_without_variables_it_is_off() -> None:
    telemetry = configure_telemetry("outrider-target")
    assert telemetry.recorder is None
    assert not telemetry.is_metering
    telemetry.meter.create_counter("drafts").add(1)
    telemetry.shutdown()


def test_when_off_the_sdk_is_not_even_imported() -> None:
    program = (
        "import sys; from services.frame.run import run_server; from services.frame.telemetry import *; "
        "configure_telemetry('x'); sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("variables", "is_tracing", "is_metering"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, True, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1"}, True, False),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:1"}, False, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_METRICS_EXPORTER": "none"}, True, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True, False),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, True, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "console"}, False, True),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "TRUE"}, False, False),
        ({"OTEL_SERVICE_NAME": "only a name"}, False, False),
        ({"OTEL_TRACES_EXPORTER": "", "OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_SDK_DISABLED": ""}, False, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": ""}, True, False),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": ""}, False, True),
        ({"OTEL_METRICS_EXPORTER": "console", "OTEL_METRIC_EXPORT_INTERVAL": ""}, False, True),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ""}, True, False),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLER": ""}, True, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": ""}, True, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}, True, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_COMPRESSION": "GZIP"}, True, False),
        (
            {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
                "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "none",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "zip",
            },
            True,
            False,
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "localhost:1"}, True, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "unix:///no/such/socket"}, True, False),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_HEADERS": "a=b%20c,d=e,"},
            True,
            True,
        ),
    ],
)
def test_the_standard_variables_switch_it_on(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], is_tracing: bool, is_metering: bool
) -> None:
    # Nobody listens, and nothing is recorded that would have to be sent but the SDK's own empty collection.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    telemetry = configure_telemetry("outrider-target")
    assert (telemetry.recorder is not None, telemetry.is_metering) == (is_tracing, is_metering)
    telemetry.shutdown()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "OTEL_TRACES_EXPORTER",
            "zipkin",
            "OTEL_TRACES_EXPORTER names 'zipkin': only otlp, console, none are supported",
        ),
        ("OTEL_METRICS_EXPORTER", "otlp,x", "OTEL_METRICS_EXPORTER names 'x': only otlp, console, none are supported"),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "http/json",
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json': only grpc, http/protobuf are supported",
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION",
            "zip",
            "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION is 'zip': only gzip, none are supported",
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "never",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE is 'never': only cumulative, delta, lowmemory are "
            "supported",
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
            "linear",
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION is 'linear': only explicit_bucket_histogram, "
            "base2_exponential_bucket_histogram are supported",
        ),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "OTEL_EXPORTER_OTLP_TIMEOUT is '10s': give it a number of seconds"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "nan", "OTEL_EXPORTER_OTLP_TIMEOUT is 'nan': give it a number of seconds"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            "ftp://x",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT is 'ftp://x': give a URL, as in http://HOST:4317",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "http://x:port",
            "OTEL_EXPORTER_OTLP_ENDPOINT is 'http://x:port': give a URL, as in http://HOST:4317",
        ),
        *(
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                headers,
                "OTEL_EXPORTER_OTLP_HEADERS must be a list of NAME=VALUE with commas, in printable ASCII",
            )
            for headers in ("secret", "key=%C3%A9", "a b=c", "key-bin=secret", "=secret", "a=b%0Ac")
        ),
        (
            "OTEL_PROPAGATORS",
            "b3",
            "OTEL_PROPAGATORS names 'b3': only tracecontext and none are supported, unset is the first",
        ),
        (
            "OTEL_PROPAGATORS",
            "tracecontext, baggage",
            "OTEL_PROPAGATORS names 'baggage': only tracecontext and none are supported, unset is the first",
        ),
        (
            "OTEL_EXPORTER_OTLP_CERTIFICATE",
            "no/such.pem",
            "OTEL_EXPORTER_OTLP_CERTIFICATE no/such.pem cannot be read: No such file or directory",
        ),
        (
            "OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY",
            ".",
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY, or those of one signal, are "
            "needed together",
        ),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", ".", "OTEL_EXPORTER_OTLP_CERTIFICATE . cannot be read: it is not a file"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
            __file__,
            f"OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE {__file__} holds no certificate: NO_CERTIFICATE_OR_CRL_FOUND",
        ),
    ],
)
def test_what_is_not_supported_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError) as refused:
        configure_telemetry("outrider-target")
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "many"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "-5"),
        ("OTEL_PYTHON_EXPORTER_OTLP_GRPC_CREDENTIAL_PROVIDER", "nobody"),
    ],
)
def test_a_value_that_the_sdk_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console, otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError, match=r"^an OTEL_ variable has a value that OpenTelemetry refuses: ") as refused:
        configure_telemetry("outrider-target")
    assert "  " not in str(refused.value)


def test_an_exporter_that_is_not_installed_is_no_wrong_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "services.frame.telemetry.otlp_http", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    with pytest.raises(ModuleNotFoundError):
        configure_telemetry("outrider-target")


@pytest.mark.parametrize(
    ("variables", "name", "version"),
    [
        ({}, "outrider-target", VERSION),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine,service.version=7,team=a%20b"}, "mine", "7"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine", "OTEL_SERVICE_NAME": "yours"}, "yours", VERSION),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name="}, "outrider-target", VERSION),
        ({"OTEL_RESOURCE_ATTRIBUTES": "", "OTEL_SERVICE_NAME": ""}, "outrider-target", VERSION),
    ],
)
def test_the_environment_may_name_a_service(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str, version: str
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    assert named_service() == ("" if name == "outrider-target" else name)
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    telemetry = configure_telemetry("outrider-target")
    telemetry.shutdown()
    assert telemetry.recorder is not None
    attributes = telemetry.recorder.resource.attributes
    assert (attributes["service.name"], attributes["service.version"]) == (name, version)
    assert attributes.get("team") == ("a b" if "team" in str(variables) else None)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_METRICS_EXPORTER": "console"},
        {"OTEL_TRACES_EXPORTER": "console"},
    ],
)
def test_a_page_is_measured_for_whatever_is_exported(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    telemetry = configure_telemetry("outrider-orchestrator", has_page=True)
    assert (telemetry.recorder is not None) == ("none" in variables.values() or "OTEL_TRACES_EXPORTER" in variables)
    assert telemetry.is_metering
    telemetry.meter.create_counter("outrider.drafts", "{draft}", "cycles with draft tokens").add(2)
    assert telemetry.page is not None
    for _ in range(2):
        told = {sample.name: sample for family in telemetry.page.families() for sample in family.samples}
        assert told["outrider_drafts_total"].value == 2
        assert told["target_info"].labels["service_name"] == "outrider-orchestrator"
    telemetry.shutdown()
    assert ("outrider.drafts" in capfd.readouterr().err) == (variables.get("OTEL_METRICS_EXPORTER") == "console")


def test_nothing_is_measured_for_a_page_where_all_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    telemetry = configure_telemetry("outrider-orchestrator", has_page=True)
    assert (telemetry.page, telemetry.is_metering) == (None, False)


def test_lines_of_metadata_are_one_header() -> None:
    metadata = [("tracestate", "a=1"), ("traceparent", "x"), ("tracestate", "b=2"), ("x-bin", b"\0")]
    assert TraceHeaders.of_metadata(metadata) == ("x", "a=1,b=2")
    assert TraceHeaders.of_metadata(None) == NO_HEADERS
