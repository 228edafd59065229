import os
import re
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from services.frame.telemetry import (
    NO_HEADERS,
    Telemetry,
    TraceHeaders,
    configure_telemetry,
    request_span,
    server_span,
)
from services.frame.telemetry.collector import CONNECT_S, MayBeAway
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
    # An exporter of the test before, which was not waited for, may find by now that its own collector is gone.
    address = collector.endpoint.removeprefix("http://")
    assert [said for said in caplog.messages if "no collector answers" not in said or address in said] == []


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
