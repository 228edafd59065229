"""The metrics of a process as Prometheus fetches them: the same instruments that OTLP exports, under the same names.

OpenTelemetry's exporter makes the names, https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector


class PrometheusPage:
    """What one process has measured, at the moment in which somebody asks."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        # One meter has all of our instruments, so that its name on each of them would tell nothing.
        self.reader = PrometheusMetricReader(scope_info_enabled=False, registry=self._registry)
        # The reader mixes up what several threads ask it for.
        self._reading = threading.Lock()

    def families(self) -> list[Metric]:
        """Return all metrics. It takes milliseconds, and any thread may call it."""
        with self._reading:
            return list(self._registry.collect())

    @staticmethod
    def render(families: Iterable[Metric], accept: str) -> tuple[bytes, str]:
        """Return metrics as text, and its content type: OpenMetrics where `accept` asks for it, else Prometheus' own.

        The same name may not come twice.
        """
        encode, content_type = choose_encoder(accept)
        return encode(_Families(list(families))), content_type


class _Families(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)
