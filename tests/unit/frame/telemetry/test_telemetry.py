import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from opentelemetry import trace

from services.frame.program.startup import StartupError
from services.frame.program.version import VERSION
from services.frame.telemetry import (
    NO_HEADERS,
    Telemetry,
    TraceHeaders,
    configure_telemetry,
    headers_of,
    named_service,
    request_span,
    server_span,
)
from services.frame.telemetry.collector import CONNECT_S, MayBeAway
from services.frame.telemetry.telemetry import context_from
from tests.collector import COLLECTING, Collector, collecting, collecting_http
from tests.ports import free_port
from tests.waiting import eventually

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the environment names."""
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        yield collector


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


def test_lines_of_metadata_are_one_header() -> None:
    metadata = [("tracestate", "a=1"), ("traceparent", "x"), ("tracestate", "b=2"), ("x-bin", b"\0")]
    assert TraceHeaders.of_metadata(metadata) == ("x", "a=1,b=2")
    assert TraceHeaders.of_metadata(None) == NO_HEADERS


def record_spans(collector: Collector, num_spans: int, telemetry: Telemetry | None = None) -> None:
    """Record spans while the collector keeps its first answer back, then let everything through."""
    telemetry = telemetry or configure_telemetry("outrider-target")
    for index in range(num_spans):
        with server_span(telemetry, f"span {index}", TraceHeaders(f"00-{TRACE_ID}-{SPAN_ID}-01")):
            pass
    collector.open.set()
    telemetry.shutdown()


def test_no_span_of_a_burst_is_dropped(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    record_spans(collector, 10_000)
    assert Counter((span.service, span.name) for span in collector.spans) == {
        ("outrider-target", f"span {index}"): 1 for index in range(10_000)
    }


def test_the_standard_variables_win(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "600")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    record_spans(collector, 10_000)
    assert 600 <= len(collector.spans) < 10_000
    assert {span.service for span in collector.spans} == {"mine"}


def test_the_end_does_not_wait_for_a_collector_that_does_not_answer(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("services.frame.telemetry.telemetry.SHUTDOWN_S", 0.1)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    telemetry = configure_telemetry("outrider-target")
    with request_span(telemetry, "generate", NO_HEADERS):
        pass
    eventually(lambda: collector.calls)
    telemetry.shutdown()
    assert collector.calls[0].is_active()
    assert caplog.messages == ["telemetry could not be sent within 0.1 s, what is left of it is lost"]


@pytest.mark.parametrize("protocol", COLLECTING)
def test_a_collector_that_is_slow_is_not_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    with COLLECTING[protocol]() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        telemetry = configure_telemetry("outrider-target")
        with request_span(telemetry, "generate", NO_HEADERS):
            pass
        eventually(lambda: collector.headers)
        # Longer than one that is away is waited for.
        time.sleep(CONNECT_S * 1.2)
        collector.open.set()
        eventually(lambda: collector.named("generate"))
        telemetry.shutdown()
    assert caplog.messages == []


@pytest.fixture(params=COLLECTING)
def nobody(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """A port on which nobody listens, and which the environment names as the collector's, for each protocol."""
    port = free_port()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", request.param)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "1")
    return port


def test_a_collector_that_is_away_is_told_of_once_and_not_waited_for(
    nobody: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    num_looks = Counter[str]()
    look = MayBeAway._can_be_reached

    def counted(exporter: MayBeAway) -> bool:
        num_looks[exporter.WHAT] += 1
        return look(exporter)

    monkeypatch.setattr(MayBeAway, "_can_be_reached", counted)
    telemetry = configure_telemetry("outrider-target")
    telemetry.meter.create_counter("outrider.drafts").add(1)

    def recorded() -> bool:
        with request_span(telemetry, "generate", NO_HEADERS):
            pass
        return num_looks["traces"] > 2 and num_looks["metrics"] > 2

    eventually(recorded)
    telemetry.shutdown()
    ending = "are dropped until one does; OTEL_SDK_DISABLED=true does without"
    # Threads of other tests may have something to say too.
    told = sorted(message for message in caplog.messages if str(nobody) in message)
    assert [re.sub(r"http://|/v1/\w+", "", message) for message in told] == [
        f"no collector answers at 127.0.0.1:{nobody}: {what} {ending}" for what in ("metrics", "traces")
    ]


def test_a_collector_that_comes_later_is_taken_up(
    nobody: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    telemetry = configure_telemetry("outrider-target")

    def recorded() -> None:
        with request_span(telemetry, "generate", NO_HEADERS):
            pass

    def is_away() -> bool:
        recorded()
        return "no collector answers" in caplog.text

    eventually(is_away)
    with COLLECTING[os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"]](nobody) as collector:
        collector.open.set()

        def is_received() -> bool:
            recorded()
            return bool(collector.spans)

        eventually(is_received)
        telemetry.shutdown()


@pytest.mark.parametrize("protocol", COLLECTING)
@pytest.mark.parametrize("compression", ["", "none", "gzip"])
def test_both_protocols_send_all_and_what_identifies_the_sender(
    monkeypatch: pytest.MonkeyPatch, protocol: str, compression: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20abc,x-project=1")
    with COLLECTING[protocol]() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        telemetry = configure_telemetry("outrider-target")
        telemetry.meter.create_counter("outrider.drafts").add(1)
        record_spans(collector, 1000, telemetry)
        assert Counter(span.name for span in collector.spans) == {f"span {index}": 1 for index in range(1000)}
        assert collector.metrics == {"outrider.drafts"}
        assert {(headers["authorization"], headers["x-project"]) for headers in collector.headers} == {
            ("Basic abc", "1")
        }


def test_signals_may_go_to_different_places(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as grpc_collector, collecting_http() as http_collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", grpc_collector.endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
        # As it is: the path is added to the one for both alone.
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{http_collector.endpoint}/v1/traces")
        grpc_collector.open.set()
        telemetry = configure_telemetry("outrider-target")
        telemetry.meter.create_counter("outrider.drafts").add(1)
        record_spans(http_collector, 1, telemetry)
        assert (len(grpc_collector.spans), grpc_collector.metrics) == (0, {"outrider.drafts"})
        assert (len(http_collector.spans), http_collector.metrics) == (1, set())


def test_metrics_are_sent_at_the_end(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    collector.open.set()
    telemetry = configure_telemetry("outrider-target")
    telemetry.meter.create_counter("outrider.drafts").add(1)
    telemetry.shutdown()
    assert collector.metrics == {"outrider.drafts"}


@pytest.mark.parametrize("flags", ["00", "01", "03"])
def test_a_traceparent_survives_reading_and_writing(flags: str) -> None:
    traceparent = f"00-{TRACE_ID}-{SPAN_ID}-{flags}"
    span = trace.get_current_span(context_from(TraceHeaders(traceparent)))
    assert span.get_span_context().is_remote
    assert headers_of(span).traceparent == traceparent


def test_a_later_version_is_read_as_far_as_we_know_it() -> None:
    span = trace.get_current_span(context_from(TraceHeaders(f"42-{TRACE_ID}-{SPAN_ID}-ff-more")))
    assert headers_of(span).traceparent == f"00-{TRACE_ID}-{SPAN_ID}-03"


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01\n",
        "x" * 100_000,
    ],
)
def test_a_bad_traceparent_is_no_error(traceparent: str) -> None:
    assert not trace.get_current_span(context_from(TraceHeaders(traceparent))).get_span_context().is_valid
