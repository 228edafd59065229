"""Metrics of an engine: how long the queue is, how full the slots, how large and how quick the decodes."""

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Observation

from services.engine.runtime.checkpoints import CheckpointRuntime
from services.engine.runtime.devices import Accelerator, accelerators
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.scheduler import Decode
from services.frame.telemetry import Telemetry, observed

# The SDK's own bounds suit milliseconds.
_DECODE_BOUNDS_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096)
_ROW_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class EngineInstruments:
    """Records decodes, and lets the exporter look at the engine whenever it collects."""

    def __init__(self, telemetry: Telemetry, engine: Engine, model_bytes: int, cache_bytes: int) -> None:
        self._meter = meter = telemetry.meter
        self._batch_rows = meter.create_histogram(
            "outrider.engine.batch_rows", "{row}", "rows of a decode", explicit_bucket_boundaries_advisory=_ROW_BOUNDS
        )
        self._decode = meter.create_histogram(
            "outrider.engine.decode.duration",
            "s",
            "time of a decode",
            explicit_bucket_boundaries_advisory=_DECODE_BOUNDS_S,
        )
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
        meter.create_observable_gauge(
            "outrider.gpu.memory", [_of_gpus(lambda gpu: gpu.total_bytes)], "By", "memory of a GPU"
        )
        meter.create_observable_gauge(
            "outrider.gpu.used_memory",
            [_of_gpus(lambda gpu: gpu.total_bytes - gpu.free_bytes)],
            "By",
            "memory of a GPU that is taken, by whomever",
        )

    def observe_checkpoints(self, runtime: CheckpointRuntime) -> None:
        """Observe what is kept of older states, of a model that has them."""
        self._meter.create_observable_gauge(
            "outrider.engine.checkpoint_memory",
            [observed(lambda: runtime.num_checkpoint_bytes)],
            "By",
            "older states that are kept",
        )

    def record_decode(self, decode: Decode) -> None:
        """Count one decode. Called from the engine's thread."""
        self._batch_rows.record(decode.num_rows)
        self._decode.record(decode.ended_s - decode.started_s)


def _of_gpus(read: Callable[[Accelerator], int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    """Return the callback of an instrument that observes every GPU; there may be none."""

    def observe(_options: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(read(gpu), {"outrider.gpu": f"{index} {gpu.name}"}) for index, gpu in enumerate(accelerators())
        ]

    return observe
