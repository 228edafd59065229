"""Spans over OTLP. Our own are encoded by hand: the SDK's encoder takes several times as long for them."""

from collections.abc import Sequence

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, SpanFlags, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util import types

from services.frame.recording import LightSpan, ids_of

_KINDS = {
    SpanKind.INTERNAL: Span.SPAN_KIND_INTERNAL,
    SpanKind.SERVER: Span.SPAN_KIND_SERVER,
    SpanKind.CLIENT: Span.SPAN_KIND_CLIENT,
}
_LOCAL_PARENT = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE_PARENT = _LOCAL_PARENT | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_CODES = {StatusCode.OK: Status.STATUS_CODE_OK, StatusCode.ERROR: Status.STATUS_CODE_ERROR}
_FIELDS = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}


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
    for span in light[1:]:
        _add(request.resource_spans[-1].scope_spans[-1], span)
    return request


def _add(scope: ScopeSpans, span: LightSpan) -> None:
    trace_id, span_id = ids_of(span.traceparent)
    encoded = scope.spans.add(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=ids_of(span.parent_traceparent)[1],
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=span.start_time,
        end_time_unix_nano=span.end_time,
        flags=_REMOTE_PARENT if span.kind is SpanKind.SERVER else _LOCAL_PARENT,
    )
    _add_attributes(encoded.attributes, span.attributes)
    for name, attributes, time_ns in span.told:
        event = encoded.events.add(name=name, time_unix_nano=time_ns)
        _add_attributes(event.attributes, attributes)
    if span.status.status_code is not StatusCode.UNSET:
        encoded.status.code = _CODES[span.status.status_code]
        encoded.status.message = span.status.description or ""


def _add_attributes(encoded: RepeatedCompositeFieldContainer[KeyValue], attributes: types.Attributes) -> None:
    for key, value in (attributes or {}).items():
        field = _FIELDS.get(type(value))
        setattr(encoded.add(key=key).value, field or "string_value", value if field else str(value))
