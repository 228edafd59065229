"""A model whose decodes take as long as a test says, on a clock that nothing else moves."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from services.engine.runtime.decode_costs import DecodeCosts
from services.engine.runtime.interface import Logits, Segment
from services.engine.runtime.runtime import RuntimeOptions
from services.engine.startup.measuring import Budget, Finding, Measuring, findings
from services.engine.startup.model_service import LoadedModel


class FakeClock:
    """Seconds that pass where they are added."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


Cost = Callable[[Sequence[Segment], RuntimeOptions], float]
"""What a decode takes, in seconds."""


class TimedRuntime:
    """Implements `services.engine.runtime.runtime.Runtime`, and holds callers to the positions that they have."""

    def __init__(self, machine: "Machine", options: RuntimeOptions) -> None:
        self.costs = DecodeCosts()
        self.num_slots = self.max_sessions = options.num_slots
        self.context_length = options.context_length + options.reserve
        self.max_batch_rows = options.max_batch_rows
        self.vocabulary_size = 16
        self.is_closed = False
        self._machine = machine
        self._options = options
        self._held = [0] * options.num_slots

    def padded_rows(self, num_sessions: int, num_rows: int) -> int:
        return num_sessions * num_rows

    def group(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        return [list(segments)]

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        assert sum(segment.num_rows for segment in segments) <= self.max_batch_rows
        for segment in segments:
            assert segment.first_position == self._held[segment.slot]
            self._held[segment.slot] += segment.num_rows
            assert self._held[segment.slot] <= self.context_length
        self._machine.clock.now_s += self._machine.cost(segments, self._options)
        self._machine.num_decodes += 1
        return [np.zeros((segment.num_outputs + segment.num_padding_outputs, 16), np.float32) for segment in segments]

    def fill(self, slot: int, first_position: int, length: int) -> None:
        assert self._options.can_fill
        assert first_position == self._held[slot]
        self._held[slot] = length

    def reachable(self, slot: int, length: int) -> int:
        return length

    def cut(self, slot: int, length: int) -> None:
        assert length <= self._held[slot]
        self._held[slot] = length

    def attention_digest(self, slot: int, position: int) -> bytes:
        return b""

    def copy(self, source: int, target: int, length: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.is_closed = True


class Machine:
    """Makes runtimes that share a clock; a context takes `making_s` to make."""

    def __init__(self, cost: Cost, making_s: float = 0.01) -> None:
        self.clock = FakeClock()
        self.cost = cost
        self.num_decodes = 0
        self.runtimes: list[TimedRuntime] = []
        self._making_s = making_s

    def make(self, model: Any, options: RuntimeOptions) -> TimedRuntime:
        """What is put in the place of LlamaRuntime."""
        self.clock.now_s += self._making_s
        self.runtimes.append(TimedRuntime(self, options))
        return self.runtimes[-1]

    def measuring(self, budget_s: float = 4.0, announce: Callable[[str], None] = lambda what: None) -> Measuring:
        """A start on this machine, with what earlier ones have kept."""
        return Measuring(Budget(budget_s, self.clock), findings(), announce)


def loaded(*, num_gpu_layers: int = 0, keeps_state: bool = False, **options: Any) -> LoadedModel:
    """A model that is only talked about."""
    model: Any = SimpleNamespace(
        path=Path("model.gguf"), num_gpu_layers=num_gpu_layers, keeps_state=keeps_state, saves_window=False
    )
    return LoadedModel(
        model, RuntimeOptions(num_threads=1, max_batch_rows=256, **options), "some digest", "some device"
    )


def known() -> dict[str, Finding]:
    """What the file holds, without what tells models apart."""
    kept = findings()
    return {key.partition(" some digest")[0]: kept.get(key) for key in kept._values}
