"""Spans and metrics over OTLP by HTTP, for backends that take nothing else. Imported only where that is asked for."""

from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.otlp.common.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import MetricExportResult
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from services.frame.telemetry.collector import CONNECT_S, MayBeAway
from services.frame.telemetry.exporters import OtlpOptions
from services.frame.telemetry.otlp import encode

# What a proxy says of a collector that is away.
_AWAY = (502, 503, 504)


class _Exporter(MayBeAway):
    # The SDK's, which compresses, retries and says why it gives up.
    _client: Any

    def _answers(self) -> bool:
        client = self._client
        result = client._transport.request(
            "POST",
            client._endpoint,
            headers=client._headers,
            data=client._compress(b""),
            timeout=(CONNECT_S, client._timeout),
        )
        return result.status_code is not None and result.status_code not in _AWAY


class HttpSpanExporter(_Exporter, OTLPSpanExporter):
    """The SDK's exporter, for a collector that may be away, with our encoder."""

    WHAT = "traces"

    def __init__(self, options: OtlpOptions) -> None:
        super().__init__(compression=Compression(options.compression))

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._shutdown or not self._can_be_reached():
            return SpanExportResult.FAILURE
        self._has_answered = self._client.export(encode(spans).SerializeToString()).success
        return SpanExportResult.SUCCESS if self._has_answered else SpanExportResult.FAILURE


class HttpMetricExporter(_Exporter, OTLPMetricExporter):
    """The SDK's exporter, for a collector that may be away."""

    WHAT = "metrics"

    def __init__(self, options: OtlpOptions) -> None:
        super().__init__(compression=Compression(options.compression))

    def export(self, *arguments: Any, **more: Any) -> MetricExportResult:
        if self._shutdown or not self._can_be_reached():
            return MetricExportResult.FAILURE
        result = super().export(*arguments, **more)
        self._has_answered = result is MetricExportResult.SUCCESS
        return result
