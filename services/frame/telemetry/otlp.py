"""Spans and metrics over OTLP/gRPC, to a collector that may be away.

Our own spans are encoded by hand: the SDK's encoder takes several times as long for them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.exporter import OTLPExporterMixin
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from services.frame.rpc.proxies import collector_options
from services.frame.telemetry.collector import CONNECT_S, MayBeAway
from services.frame.telemetry.exporters import OtlpOptions
from services.frame.telemetry.recording import LightSpan, ids_of

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

_LOCAL_PARENT = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE_PARENT = _LOCAL_PARENT | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_CODES = {StatusCode.OK: Status.STATUS_CODE_OK, StatusCode.ERROR: Status.STATUS_CODE_ERROR}

_CHANNEL_OPTIONS: Any = (
    # gRPC's own limit is two minutes: a collector that is back would be left alone for as long.
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # The least time that it gives to an attempt to connect, 20 s by itself.
    ("grpc.min_reconnect_backoff_ms", int(CONNECT_S * 1000)),
)
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class _Exporter(MayBeAway, OTLPExporterMixin[Any, Any, Any, Any]):
    NOTHING: Message

    def _export(self, data: Any) -> Any:
        if not self._shutdown and not self._can_be_reached():
            return self._result.FAILURE
        result = super()._export(data)
        self._has_answered = result is self._result.SUCCESS
        return result

    def _answers(self) -> bool:
        # The SDK's own types have it as None.
        client: Any = self._client
        try:
            client.Export(request=self.NOTHING, metadata=self._headers, timeout=self._timeout)
        except grpc.RpcError as error:
            # Of any other error the export itself will tell.
            return error.code() not in _AWAY
        return True


class GrpcMetricExporter(_Exporter, OTLPMetricExporter):
    """The SDK's exporter over gRPC, for a collector that may be away."""

    WHAT = "metrics"
    NOTHING = ExportMetricsServiceRequest()

    def __init__(self, options: OtlpOptions) -> None:
        super().__init__(**_arguments(options, "METRICS"))


class GrpcSpanExporter(_Exporter, OTLPSpanExporter):
    """The SDK's exporter over gRPC, for a collector that may be away, with our encoder: all spans of one recorder."""

    WHAT = "traces"
    NOTHING = ExportTraceServiceRequest()

    def __init__(self, options: OtlpOptions) -> None:
        super().__init__(**_arguments(options, "TRACES"))

    def _translate_data(self, data: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
        return encode(data)


def _arguments(options: OtlpOptions, signal: str) -> dict[str, Any]:
    """Return what the SDK does not read as the standard says: it knows no compression `none`, and not every file."""
    files = (options.certificate, options.client_key, options.client_certificate)
    return {
        "compression": grpc.Compression.Gzip if options.compression == "gzip" else grpc.Compression.NoCompression,
        "credentials": grpc.ssl_channel_credentials(*files) if any(files) else None,
        "channel_options": _CHANNEL_OPTIONS + collector_options(signal),
    }


def encode(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    """Return what the SDK's encoder returns, but for the order of spans. Light spans must be of one recorder."""
    light = [span for span in spans if isinstance(span, LightSpan)]
    others = [span for span in spans if not isinstance(span, LightSpan)]
    # One light span is left to the SDK, so that it encodes the resource and the scope of them all.
    request = encode_spans([*others, *light[:1]])
    if len(light) > 1:
        encoded = request.resource_spans[-1].scope_spans[-1].spans
        for span in light[1:]:
            _fill(encoded.add(), span)
    return request


def _fill(encoded: Span, span: LightSpan) -> None:
    encoded.trace_id, encoded.span_id = ids_of(span.headers.traceparent)
    _, encoded.parent_span_id = ids_of(span.parent_headers.traceparent)
    encoded.trace_state = span.headers.tracestate
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
            event.dropped_attributes_count = getattr(attributes, "dropped", 0)
    encoded.dropped_attributes_count = span.dropped_attributes
    encoded.dropped_events_count = span.dropped_events
    status = span.status
    if status.status_code is not StatusCode.UNSET:
        encoded.status.code = _CODES[status.status_code]
        encoded.status.message = status.description or ""


def _fill_attributes(encoded: "RepeatedCompositeFieldContainer[KeyValue]", attributes: Mapping[str, Any]) -> None:
    for key, value in attributes.items():
        _fill_value(encoded.add(key=key).value, value)


def _fill_value(encoded: AnyValue, value: Any) -> None:
    kind = type(value)
    if kind is int:
        encoded.int_value = value
    elif kind is float:
        encoded.double_value = value
    elif kind is bool:
        encoded.bool_value = value
    elif kind is list or kind is tuple:
        # An empty one is an array too.
        encoded.array_value.SetInParent()
        for each in value:
            _fill_value(encoded.array_value.values.add(), each)
    else:
        encoded.string_value = str(value)
