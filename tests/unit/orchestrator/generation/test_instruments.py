from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum

from orchestrator.generation.instruments import GenerationInstruments
from services.frame.telemetry import Telemetry


def test_counters_that_are_watched_begin_with_nothing() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    GenerationInstruments(Telemetry(meter_provider=provider), lambda: 0, lambda: 0.0, lambda: 0.0)
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    sums = {metric.name: metric.data for metric in metrics if isinstance(metric.data, Sum)}
    names = ("cycles", "generated_tokens", "prompt_tokens", "skipped_tokens", "fallbacks", "resyncs")
    assert set(sums) == {f"outrider.{name}" for name in names}
    assert {point.value for each in sums.values() for point in each.data_points} == {0}
