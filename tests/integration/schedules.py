"""Random schedules of a runtime: what the engine does with slots, and the rows of logits that it gets."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from services.engine.runtime.interface import Logits, Runtime, Segment

_REST, _REWIND, _COPY = 0.2, 0.05, 0.15
_LONGEST_PART = 90


@dataclass(frozen=True)
class Row:
    """A row of logits that a schedule gave, of a sequence at a position."""

    sequence: int
    position: int
    logits: Logits


class Schedule:
    """Sessions in slots of their own, each with a sequence that it knows the right tokens of."""

    def __init__(self, runtime: Runtime, sequences: Sequence[Sequence[int]], max_draft_tokens: int, seed: int) -> None:
        self._runtime = runtime
        self._sequences = sequences
        self._max_draft_tokens = max_draft_tokens
        self._rng = random.Random(seed)
        self._held = [0] * len(sequences)
        self.num_copied = self.num_rewound = 0

    def step(self) -> Iterator[Row]:
        """Some sessions go on, others rest, rewind, or begin again with what another one holds. Yield good rows."""
        segments: list[Segment] = []
        right_until: dict[int, int] = {}
        for slot, tokens in enumerate(self._sequences):
            chance = self._rng.random()
            if chance < _REST:
                continue
            if self._held[slot] == len(tokens) or chance < _REST + _REWIND:
                self._rewind(slot)
            elif chance < _REST + _REWIND + _COPY:
                self._copy(slot)
            segment, right_until[slot] = self._next(slot)
            segments.append(segment)
        for group in self._runtime.group(segments) if segments else ():
            for segment, logits in zip(group, self._runtime.decode(group), strict=True):
                end = segment.first_position + len(segment.tokens)
                for position, row in zip(range(end - segment.num_outputs, end), logits, strict=True):
                    if position < right_until[segment.slot]:
                        yield Row(segment.slot, position, row)
                self._held[segment.slot] = end
        for slot, length in right_until.items():
            if length < self._held[slot]:
                self._cut(slot, length)

    def _rewind(self, slot: int) -> None:
        reachable = self._runtime.reachable(slot, self._rng.randrange(self._held[slot] or 1))
        self.num_rewound += reachable > 0
        self._cut(slot, reachable)

    def _copy(self, slot: int) -> None:
        """Begin again with what another session has in common with this one."""
        other = self._rng.choice([index for index in range(len(self._sequences)) if index != slot])
        pairs = zip(self._sequences[slot], self._sequences[other], strict=False)
        common = next((index for index, (left, right) in enumerate(pairs) if left != right), 0)
        shared = self._runtime.reachable(other, min(common, self._held[other]))
        if shared:
            self._cut(slot, 0)
            self._runtime.copy(other, slot, shared)
            self._held[slot] = shared
            self.num_copied += 1

    def _cut(self, slot: int, length: int) -> None:
        self._runtime.cut(slot, length)
        self._held[slot] = length

    def _next(self, slot: int) -> tuple[Segment, int]:
        """Return a part of a prompt, one row, one that may be taken back, or a draft; and up to where it is right."""
        tokens, held = self._sequences[slot], self._held[slot]
        num_left = len(tokens) - held
        kind = self._rng.choice(("prompt", "row", "proposal", "draft", "draft"))
        if kind == "prompt":
            num_rows = min(self._rng.randint(1, _LONGEST_PART), num_left, self._runtime.max_batch_rows)
            num_outputs = self._rng.choice((0, 1, self._rng.randint(1, num_rows)))
            return Segment(slot, held, tokens[held : held + num_rows], num_outputs), held + num_rows
        if kind == "row":
            return Segment(slot, held, tokens[held : held + 1], 1), held + 1
        if kind == "proposal":
            is_right = self._rng.random() < 0.7
            rows = tokens[held : held + 1] if is_right else [self._rng.choice(tokens)]
            return Segment(slot, held, rows, 1, num_tentative=1), held + is_right
        num_rows = self._rng.randint(1, min(num_left, self._max_draft_tokens + 1))
        num_right = self._rng.randint(1, num_rows)
        wrong = [self._rng.choice(tokens) for _ in range(num_rows - num_right)]
        rows = [*tokens[held : held + num_right], *wrong]
        return Segment(slot, held, rows, num_rows, num_tentative=num_rows - 1), held + num_right


def row_by_row(runtime: Runtime, sequences: Sequence[Sequence[int]]) -> list[Logits]:
    """Return the logits of each sequence, alone and one token at a time."""
    found = []
    for tokens in sequences:
        rows = [
            runtime.decode([Segment(0, position, tokens[position : position + 1], 1)])[0][0].copy()
            for position in range(len(tokens))
        ]
        runtime.cut(0, 0)
        found.append(np.stack(rows))
    return found
