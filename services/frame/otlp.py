"""Spans over OTLP. Our own are encoded by hand: the SDK's encoder takes several times as long for them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from services.frame.recording import LightSpan, ids_of

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

_LOCAL_PARENT = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE_PARENT = _LOCAL_PARENT | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_CODES = {StatusCode.OK: Status.STATUS_CODE_OK, StatusCode.ERROR: Status.STATUS_CODE_ERROR}


class LightSpanExporter(OTLPSpanExporter):
    """The SDK's exporter with our encoder. All light spans that it is given are of one recorder."""

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        return encode(data)


def encode(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """Return what the SDK's encoder returns, but for the order of spans. The light ones are of one recorder."""
    light = [span for span in spans if isinstance(span, LightSpan)]
    others = [span for span in spans if not isinstance(span, LightSpan)]
    # One light span is left to the SDK, which with it encodes the resource and the scope of them all.
    request = encode_spans([*others, *light[:1]])
    if len(light) > 1:
        encoded = request.resource_spans[-1].scope_spans[-1].spans
        for span in light[1:]:
            _fill(encoded.add(), span)
    return request


def _fill(encoded: Span, span: LightSpan) -> None:
    encoded.trace_id, encoded.span_id = ids_of(span.traceparent)
    _, encoded.parent_span_id = ids_of(span.parent_traceparent)
    encoded.name = span.name
    # The protocol numbers kinds as the API does, from 1 on.
    encoded.kind = Span.SpanKind.ValueType(span.kind.value + 1)
    encoded.start_time_unix_nano = span.start_time or 0
    encoded.end_time_unix_nano = span.end_time or 0
    encoded.flags = _REMOTE_PARENT if span.kind is SpanKind.SERVER else _LOCAL_PARENT
    _fill_attributes(encoded.attributes, span.attributes or {})
    for name, attributes, time_ns in span.told:
        event = encoded.events.add(name=name, time_unix_nano=time_ns)
        if attributes:
            _fill_attributes(event.attributes, attributes)
    status = span.status
    if status.status_code is not StatusCode.UNSET:
        encoded.status.code = _CODES[status.status_code]
        encoded.status.message = status.description or ""


def _fill_attributes(encoded: "RepeatedCompositeFieldContainer[KeyValue]", attributes: Mapping[str, Any]) -> None:
    for key, value in attributes.items():
        kind = type(value)
        if kind is int:
            encoded.add(key=key).value.int_value = value
        elif kind is float:
            encoded.add(key=key).value.double_value = value
        elif kind is bool:
            encoded.add(key=key).value.bool_value = value
        else:
            encoded.add(key=key).value.string_value = str(value)
