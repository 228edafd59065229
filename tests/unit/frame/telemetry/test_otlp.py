"""Light spans encoded by hand must be to the last field what the SDK's encoder makes of them."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode

from services.frame.rpc.errors import ServiceError
from services.frame.telemetry import TraceHeaders
from services.frame.telemetry.otlp import encode
from services.frame.telemetry.recording import LightSpan, Recorder

PARENT = TraceHeaders("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=value,other=1")


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def recorder(exporter: InMemorySpanExporter) -> Iterator[Recorder]:
    recorder = Recorder(Resource({"service.name": "s"}), [SimpleSpanProcessor(exporter)])
    yield recorder
    recorder.shutdown()


def fill(span: Span) -> None:
    span.set_attributes({"text": "naïve", "count": -3, "share": 0.5, "is_late": True, "nothing": 0, "empty": ""})
    span.set_attributes({"shares": [0.25, 1.0], "counts": [1, 2], "names": ["naïve"], "none of them": []})
    span.add_event("with", {"rows": 2**40, "ms": 0.0}, timestamp=17)
    span.add_event("without")


def comparable(request: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    """The spans in the order of their ids. An unset status is one that holds nothing, which says the same as none."""
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            scope.spans.sort(key=lambda span: span.span_id)
            for span in scope.spans:
                if span.status == Status():
                    span.ClearField("status")
    return request


def assert_encoded_alike(spans: Sequence[ReadableSpan]) -> None:
    assert comparable(encode(spans)) == comparable(encode_spans(spans))


def test_light_spans(recorder: Recorder, exporter: InMemorySpanExporter) -> None:
    with recorder.message("server", PARENT) as server:
        fill(server)
        with recorder.child("cycle", SpanKind.INTERNAL) as cycle:
            fill(cycle)
            with recorder.child("client", SpanKind.CLIENT):
                pass
    recorder.flush()
    spans = exporter.get_finished_spans()
    assert [type(span) for span in spans] == [LightSpan] * 3
    assert_encoded_alike(spans)


def test_light_spans_among_those_of_the_sdk(recorder: Recorder, exporter: InMemorySpanExporter) -> None:
    with recorder.request("request", PARENT) as request:
        fill(request)
        for name in "abc":
            with recorder.child(name, SpanKind.INTERNAL) as child:
                fill(child)
        with recorder.request("another", PARENT):
            pass
    recorder.flush()
    spans = exporter.get_finished_spans()
    assert sum(isinstance(span, LightSpan) for span in spans) == 3
    assert len(spans) == 5
    assert_encoded_alike(spans)
    assert_encoded_alike([span for span in spans if not isinstance(span, LightSpan)])


def test_an_error_and_a_status(recorder: Recorder, exporter: InMemorySpanExporter) -> None:
    with recorder.message("fine", PARENT) as fine:
        fine.set_status(StatusCode.OK)
    with pytest.raises(ServiceError), recorder.message("failed", PARENT):
        raise ServiceError(grpc.StatusCode.UNAVAILABLE, "AWAY", "it is away")
    recorder.flush()
    # The first is the SDK's work in either case.
    spans = [exporter.get_finished_spans()[0], *exporter.get_finished_spans()]
    assert_encoded_alike(spans)
    assert [span.status.code for span in encode(spans).resource_spans[0].scope_spans[0].spans] == [
        Status.STATUS_CODE_OK,
        Status.STATUS_CODE_OK,
        Status.STATUS_CODE_ERROR,
    ]


LIMITS = {
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "2",
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "4",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "2",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "1",
    "OTEL_SPAN_EVENT_COUNT_LIMIT": "1",
}


@pytest.mark.parametrize(
    "limits",
    [
        {},
        *({name: value} for name, value in LIMITS.items()),
        *({name: "0"} for name in LIMITS if "COUNT" in name),
        LIMITS,
    ],
    ids=" ".join,
)
def test_limits_hold_as_they_do_for_spans_of_the_sdk(
    monkeypatch: pytest.MonkeyPatch, exporter: InMemorySpanExporter, limits: dict[str, str]
) -> None:
    for name, value in limits.items():
        monkeypatch.setenv(name, value)
    recorder = Recorder(Resource({}), [SimpleSpanProcessor(exporter)])
    for begin in (recorder.request, recorder.message):
        with pytest.raises(ValueError), begin("limited", PARENT) as span:
            fill(span)
            raise ValueError("a long sentence")
    recorder.shutdown()
    theirs, ours = exporter.get_finished_spans()
    assert isinstance(ours, LightSpan) and not isinstance(theirs, LightSpan)
    assert_encoded_alike([theirs, ours])
    encoded = [span for scope in encode([theirs, ours]).resource_spans[0].scope_spans for span in scope.spans]
    for span in encoded:
        # A request has a kind of its own for those who look at answers of models.
        for attribute in span.attributes:
            if attribute.key == "openinference.span.kind":
                attribute.ClearField("value")
        for field in ("span_id", "start_time_unix_nano", "end_time_unix_nano"):
            span.ClearField(field)
        for event in span.events:
            event.ClearField("time_unix_nano")
    assert encoded[0] == encoded[1]


def test_a_value_of_another_type_is_a_text(recorder: Recorder, exporter: InMemorySpanExporter) -> None:
    for _ in range(2):
        with recorder.message("odd", PARENT) as odd:
            odd.set_attribute("number", Fraction(1, 2))  # type: ignore[arg-type]
    recorder.flush()
    attribute = encode(exporter.get_finished_spans()).resource_spans[0].scope_spans[0].spans[1].attributes[1]
    assert attribute.value.string_value == "1/2"


def test_nothing() -> None:
    assert encode([]) == ExportTraceServiceRequest()
