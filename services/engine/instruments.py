"""Metrics of an engine: how long the queue is, how full the slots, how large and how quick the decodes."""

from services.engine.engine import Engine
from services.frame.telemetry import Telemetry, observed


class EngineInstruments:
    """Records decodes, and lets the exporter look at the engine whenever it collects."""

    def __init__(self, telemetry: Telemetry, engine: Engine, model_bytes: int, cache_bytes: int) -> None:
        meter = telemetry.meter
        self._batch_rows = meter.create_histogram("outrider.engine.batch_rows", "{row}", "rows of a decode")
        self._decode = meter.create_histogram("outrider.engine.decode.duration", "s", "time of a decode")
        meter.create_observable_gauge(
            "outrider.engine.queue_depth",
            [observed(lambda: engine.num_waiting)],
            "{request}",
            "requests without a slot",
        )
        meter.create_observable_gauge(
            "outrider.engine.busy_slots", [observed(lambda: engine.num_active)], "{slot}", "slots at work"
        )
        meter.create_observable_counter(
            "outrider.engine.evictions",
            [observed(lambda: engine.num_evictions)],
            "{session}",
            "sessions that lost a slot",
        )
        meter.create_observable_gauge(
            "outrider.engine.memory", [observed(lambda: model_bytes + cache_bytes)], "By", "weights and caches"
        )

    def record_decode(self, num_rows: int, duration_s: float) -> None:
        """Count one decode. Called from the engine's thread."""
        self._batch_rows.record(num_rows)
        self._decode.record(duration_s)
