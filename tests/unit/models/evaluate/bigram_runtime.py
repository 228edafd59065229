"""A model whose logits depend on nothing but the last token, in place of llama.cpp."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.engine.runtime.interface import Logits, Segment


class BigramRuntime:
    """A runtime over a table of logits [token, next token]; it refuses rows that do not follow what a slot holds."""

    def __init__(self, table: Logits, *, num_slots: int = 4, max_batch_rows: int = 16) -> None:
        self.num_slots = self.max_sessions = num_slots
        self.context_length = 10_000
        self.max_batch_rows = max_batch_rows
        self.vocabulary_size = table.shape[1]
        self.held: list[list[int]] = [[] for _ in range(num_slots)]
        self.outputs: list[list[int]] = []
        """What was held, up to the row, for every row whose logits were asked for."""
        self._table = table

    @classmethod
    def random(cls, seed: int, *, size: int = 40, spread: float = 3.0) -> BigramRuntime:
        """A table of normal logits."""
        return cls(np.random.default_rng(seed).normal(0.0, spread, (size, size)).astype(np.float32))

    def padded_rows(self, num_sessions: int, num_rows: int) -> int:
        return num_sessions * num_rows

    def group(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        """One group for all."""
        return [list(segments)]

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        """Logits of the rows of each segment that have output."""
        assert sum(segment.num_rows for segment in segments) <= self.max_batch_rows
        for segment in segments:
            held = self.held[segment.slot]
            assert segment.first_position == len(held)
            held += segment.tokens
            for place in range(len(held) - segment.num_outputs, len(held)):
                self.outputs.append(held[: place + 1])
        rows = [list(segment.tokens)[len(segment.tokens) - segment.num_outputs :] for segment in segments]
        return [self._table[tokens] if tokens else np.empty((0, self.vocabulary_size), np.float32) for tokens in rows]

    def reachable(self, slot: int, length: int) -> int:
        """Return `length`: any can be cut to."""
        return length

    def cut(self, slot: int, length: int) -> None:
        """Drop what `slot` holds from `length` on."""
        del self.held[slot][length:]

    def close(self) -> None:
        """Nothing to free."""
