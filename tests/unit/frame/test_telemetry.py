import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.frame.startup import StartupError
from services.frame.telemetry import Telemetry, configure_telemetry, context_from_traceparent, traceparent_of

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """What an OTLP collector is to an exporter. It answers once it is `open`."""

    port: int = 0
    open: threading.Event = field(default_factory=threading.Event)
    spans: list[str] = field(default_factory=list)
    services: set[str] = field(default_factory=set)
    metrics: set[str] = field(default_factory=set)

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        assert self.open.wait(30)
        if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest):
            for of_resource in request.resource_metrics:
                self.metrics |= {metric.name for scope in of_resource.scope_metrics for metric in scope.metrics}
            return metrics_service_pb2.ExportMetricsServiceResponse()
        for of_resource in request.resource_spans:
            attributes = {each.key: each.value.string_value for each in of_resource.resource.attributes}
            self.services.add(attributes["service.name"])
            self.spans += [span.name for scope in of_resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the environment names."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)
    collector.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.port}")
    yield collector
    collector.open.set()
    server.stop(None).wait()


def test_without_variables_it_is_off() -> None:
    telemetry = configure_telemetry("outrider-target")
    assert not telemetry.is_tracing
    assert not telemetry.is_metering
    with telemetry.tracer.start_as_current_span("work") as span:
        assert not span.is_recording()
        assert traceparent_of(span) == ""
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
    assert (telemetry.is_tracing, telemetry.is_metering) == (is_tracing, is_metering)
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
            "http/protobuf",
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/protobuf': only grpc is supported",
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


def test_a_value_that_the_sdk_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(StartupError, match=r"^an OTEL_ variable has a value that OpenTelemetry refuses: "):
        configure_telemetry("outrider-target")


def record_spans(collector: Collector, num_spans: int) -> None:
    """Record spans while the collector keeps its first answer back, then let everything through."""
    telemetry = configure_telemetry("outrider-target")
    for index in range(num_spans):
        telemetry.tracer.start_span(f"span {index}").end()
    collector.open.set()
    telemetry.shutdown()


def test_no_span_of_a_burst_is_dropped(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    record_spans(collector, 10_000)
    assert sorted(collector.spans) == sorted(f"span {index}" for index in range(10_000))
    assert collector.services == {"outrider-target"}


def test_the_standard_variables_win(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "600")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    record_spans(collector, 10_000)
    assert 600 <= len(collector.spans) < 10_000
    assert collector.services == {"mine"}


def test_metrics_are_sent_at_the_end(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    collector.open.set()
    telemetry = configure_telemetry("outrider-target")
    telemetry.meter.create_counter("outrider.drafts").add(1)
    telemetry.shutdown()
    assert collector.metrics == {"outrider.drafts"}


def test_a_span_goes_on_in_another_process() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    caller, service = Telemetry(provider), Telemetry(provider)
    with caller.tracer.start_as_current_span("message") as span:
        traceparent = traceparent_of(span)
    service.tracer.start_span("answer", context=context_from_traceparent(traceparent)).end()
    message, answer = exporter.get_finished_spans()
    assert answer.parent is not None
    assert answer.parent.span_id == message.context.span_id
    assert answer.context.trace_id == message.context.trace_id


@pytest.mark.parametrize("flags", ["00", "01", "03"])
def test_a_traceparent_survives_reading_and_writing(flags: str) -> None:
    traceparent = f"00-{TRACE_ID}-{SPAN_ID}-{flags}"
    span = trace.get_current_span(context_from_traceparent(traceparent))
    assert span.get_span_context().is_remote
    assert traceparent_of(span) == traceparent


def test_a_later_version_is_read_as_far_as_we_know_it() -> None:
    span = trace.get_current_span(context_from_traceparent(f"42-{TRACE_ID}-{SPAN_ID}-ff-more"))
    assert traceparent_of(span) == f"00-{TRACE_ID}-{SPAN_ID}-03"


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
def test_a_bad_traceparent_gives_a_new_root_and_no_error(traceparent: str) -> None:
    telemetry = Telemetry(TracerProvider(shutdown_on_exit=False))
    with telemetry.tracer.start_as_current_span("somebody else's"):
        span = telemetry.tracer.start_span("work", context=context_from_traceparent(traceparent))
    assert span.parent is None
