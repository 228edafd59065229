"""The contexts that decodes are measured in: each is filled once and kept, so that they can be measured in turn."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from services.engine.costs.plan import Plan, Setup, Shape, context_lengths, plan
from services.engine.costs.rounds import visit
from services.engine.errors import ModelLoadError
from services.engine.model.model import Model
from services.engine.runtime.devices import accelerators
from services.engine.runtime.interface import Segment
from services.engine.runtime.memory import cache_bytes, check_ram, free_ram, layers_that_fit, read_sizes, rooms
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions

# Of what is free once the weights are there; the rest is for graphs, and for a cache to fill others from.
_USABLE_SHARE = 0.5


class MeasuredModel:
    """A model and its contexts. Close it, or use it as a block."""

    def __init__(self, path: Path, rows: Sequence[int], *, context: int, num_threads: int, gpu_layers: int) -> None:
        """Load a model whose decodes of so many `rows` of each session will be measured.

        Contexts are as long as the model was trained for, and have `context` tokens at most. `gpu_layers` -1 is as many
        as fit. Raises ModelLoadError.
        """
        self._rows = rows
        most_rows = max(rows)
        # What is loaded has to fit with the smallest of the contexts.
        options = RuntimeOptions(num_slots=1, context_length=2 * most_rows, num_threads=num_threads)
        sizes = read_sizes(path)
        if sizes.keeps_state:
            raise ModelLoadError(f"{path} keeps a state, which no cut brings back: its decodes are not measured")
        gpus = accelerators() if gpu_layers else []
        if gpu_layers < 0:
            gpu_layers = layers_that_fit(sizes, options, max(gpu.free_bytes for gpu in gpus)) if gpus else 0
        self.num_gpu_layers = gpu_layers if gpus else 0
        check_ram(sizes, options, rooms(), self.num_gpu_layers)
        self.model = Model(path, num_gpu_layers=self.num_gpu_layers)
        self._options = options
        known = [count for count in (self.model.trained_context, self.model.most_positions) if count]
        self._most_positions = min([context, *known])
        if self._most_positions <= most_rows:
            self.model.close()
            raise ModelLoadError(f"{path} knows {self._most_positions} positions, too few to measure {most_rows} rows")
        self._contexts: dict[Setup, LlamaRuntime] = {}

    @property
    def threads(self) -> int:
        """The number of threads that decode."""
        return self._options.threads()

    def plan(self, num_slots: int, share: float) -> Plan:
        """Return what can be measured of so many sessions with a share of the memory that is free."""
        free_bytes = free_ram()
        if self.num_gpu_layers:
            free_bytes = max(gpu.free_bytes for gpu in accelerators())
        lengths = context_lengths(self._most_positions, max(self._rows))
        return plan(num_slots, lengths, self._rows, int(share * _USABLE_SHARE * free_bytes), self._setup_bytes)

    def measure(self, shape: Shape) -> list[float]:
        """Return seconds of some decodes. Raises ModelLoadError and DecodeError."""
        runtime, context = self._context_of(shape.setup), shape.setup.context
        tokens = [0] * shape.rows_each
        segments = [Segment(slot, context, tokens, len(tokens)) for slot in range(shape.num_sessions)]

        def cut() -> None:
            for slot in range(shape.num_sessions):
                runtime.cut(slot, context)

        return visit(lambda: runtime.decode(segments), cut)

    def close(self) -> None:
        """Free everything."""
        for runtime in self._contexts.values():
            runtime.close()
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _setup_bytes(self, setup: Setup) -> int:
        options = self._options_of(setup)
        return cache_bytes(self.model, options) + 4 * options.max_batch_rows * self.model.vocabulary.size

    def _options_of(self, setup: Setup) -> RuntimeOptions:
        return replace(
            self._options,
            num_slots=setup.num_slots,
            context_length=setup.context + max(self._rows),
            max_batch_rows=setup.num_slots * max(self._rows),
            flash_attention=setup.flash_attention,
        )

    def _context_of(self, setup: Setup) -> LlamaRuntime:
        """Return the context of a setup, its slots filled; what is in them makes no difference to the time."""
        if setup not in self._contexts:
            options = self._options_of(setup)
            self._contexts[setup] = runtime = LlamaRuntime(self.model, options)
            # A context that can be filled at once is slower, and what it holds fits one of as many slots only.
            source = LlamaRuntime(self.model, replace(options, max_batch_rows=256, can_fill=True))
            try:
                source.fill(0, 0, setup.context)
                state = source.state(0)
            finally:
                source.close()
            for slot in range(setup.num_slots):
                runtime.restore(slot, state)
        return self._contexts[setup]
