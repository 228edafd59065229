"""A model that keeps a state, as llama.cpp's do: what a caller gets wrong gives wrong logits, and no error."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from services.engine.errors import DecodeError
from services.engine.runtime.checkpoints import CheckpointRuntime
from services.engine.runtime.decode_costs import DecodeCosts
from services.engine.runtime.interface import Logits, Segment
from tests.unit.engine.fakes import VOCABULARY_SIZE, fake_logits

STATE_BYTES = 100
MAX_DRAFT_TOKENS = 7
TEXT = [(7 * index + index // 3) % VOCABULARY_SIZE for index in range(200)]
_PADDING = 0


@dataclass(frozen=True)
class State:
    """What was evaluated; the blocks in which it was done decide the last bits."""

    tokens: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()

    def __len__(self) -> int:
        return STATE_BYTES


# What a snapshot holds that the last decode did not write.
_STALE = State((-1,), ())


@dataclass
class _Memory:
    state: State = field(default_factory=State)
    # What attention keeps.
    cache: list[int] = field(default_factory=list)
    # States after the last row, the one before it and so on.
    snapshots: list[State] = field(default_factory=list)
    is_rolled_back: bool = False


class StatefulFake:
    """Implements `services.engine.runtime.checkpoints.StatefulRuntime`.

    The logits of a row are those of the sequence that the state and the cache are of, else noise; with a `width` also
    where a row's block is not a whole one from the beginning on.

    With `num_snapshots` so many rows can be cut, once after a decode. Where the slot's last decode had fewer rows, or
    there was another decode since, that says nothing and the state is a wrong one.

    Attributes:
        batches: the segments of every decode so far.
        num_saves, num_put_back, num_rolled_back: states that were read, written, and taken from snapshots.
        failing: numbers of decodes, the first is 0, that raise DecodeError and leave half of what they did.
    """

    def __init__(
        self,
        num_slots: int = 3,
        context_length: int = 256,
        max_batch_rows: int = 256,
        width: int = 1,
        num_snapshots: int = 0,
    ) -> None:
        self.costs = DecodeCosts()
        self.num_slots = self.max_sessions = num_slots
        self.context_length = context_length
        self.max_batch_rows = max_batch_rows
        self.vocabulary_size = VOCABULARY_SIZE
        self.width = width
        self.num_snapshots = num_snapshots
        self.batches: list[list[Segment]] = []
        self.num_saves = self.num_put_back = self.num_rolled_back = 0
        self.failing: set[int] = set()
        self.is_closed = False
        self._memories = [_Memory() for _ in range(num_slots)]

    def padded_rows(self, num_sessions: int, num_rows: int) -> int:
        return num_sessions * num_rows

    def group(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        return [list(segments)]

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        rows = [segment.num_rows for segment in segments]
        assert sum(rows) <= self.max_batch_rows
        assert all(segment.first_position + segment.num_rows <= self.context_length for segment in segments)
        slots = [segment.slot for segment in segments]
        assert all(after == before + 1 for before, after in pairwise(slots)), "neighbours only"
        assert len(set(rows)) == 1, "one pass only"
        number = len(self.batches)
        self.batches.append(list(segments))
        for slot, memory in enumerate(self._memories):
            if slot not in slots:
                # A decode may move what it does not evaluate, but for the snapshots of it.
                memory.snapshots = [_STALE] * len(memory.snapshots)
        logits = [self._evaluate(segment) for segment in segments]
        if number in self.failing:
            for slot, memory in enumerate(self._memories):
                if slot not in slots:
                    memory.state = _STALE
            raise DecodeError("told to fail")
        return logits

    def reachable(self, slot: int, length: int) -> int:
        return 0

    def cut(self, slot: int, length: int) -> None:
        memory = self._memories[slot]
        num_rows = len(memory.cache) - length
        del memory.cache[length:]
        if not length:
            self._memories[slot] = _Memory()
        elif num_rows > 0:
            if memory.is_rolled_back or num_rows > self.num_snapshots:
                raise DecodeError("no state can be cut there")
            is_there = num_rows < len(memory.snapshots)
            memory.state = memory.snapshots[num_rows] if is_there else _STALE
            memory.is_rolled_back = True
            self.num_rolled_back += 1

    def copy(self, source: int, target: int, length: int) -> None:
        raise AssertionError("a state cannot be copied in part")

    def save(self, slot: int) -> State:
        self.num_saves += 1
        return self._memories[slot].state

    def put_back(self, slot: int, state: State | None, length: int) -> None:
        self.num_put_back += 1
        self._memories[slot] = _Memory(state or State(), self._memories[slot].cache[:length])

    def share(self, source: int, target: int) -> None:
        assert not self._memories[source].is_rolled_back, "the copy has what was taken back"
        self._memories[target] = _Memory(self._memories[source].state, list(self._memories[source].cache))

    def attention_digest(self, slot: int, position: int) -> bytes:
        return b""

    def close(self) -> None:
        self.is_closed = True

    def _evaluate(self, segment: Segment) -> Logits:
        memory = self._memories[segment.slot]
        tokens = [*segment.tokens, *[_PADDING] * segment.num_padding]
        before = memory.state
        is_right = len(before.tokens) == segment.first_position and list(before.tokens) == memory.cache
        is_whole = not any(size % self.width for size in (*before.blocks, len(tokens)))
        blocks = (*before.blocks, len(tokens))
        states = [State((*before.tokens, *tokens[:end]), blocks) for end in range(len(tokens), 0, -1)]
        memory.state, memory.snapshots, memory.is_rolled_back = states[0], states[: 1 + self.num_snapshots], False
        memory.cache = [*memory.cache[: segment.first_position], *tokens]
        first = len(segment.tokens) - segment.num_outputs
        ends = range(first + 1, len(segment.tokens) + segment.num_padding_outputs + 1)
        rows = [fake_logits((*before.tokens, *tokens[:end])) for end in ends]
        if not (is_right and is_whole):
            rows = [np.zeros(VOCABULARY_SIZE, np.float32) for _ in rows]
        return np.array(rows, np.float32).reshape(len(rows), VOCABULARY_SIZE)


def runtime_over(inner: StatefulFake, *, num_kept: int = 8, is_shared: bool = True) -> CheckpointRuntime:
    """What the engine gets, with so many older states."""
    return CheckpointRuntime(inner, inner.width, MAX_DRAFT_TOKENS, num_kept * STATE_BYTES, is_shared=is_shared)


def decode(runtime: CheckpointRuntime, *segments: Segment) -> list[Logits]:
    """Decode them all; the logits of each."""
    found: dict[int, Logits] = {}
    for group in runtime.group(segments):
        for segment, rows in zip(group, runtime.decode(group), strict=True):
            found[segment.slot] = rows.copy()
    return [found[segment.slot] for segment in segments]


def expected(tokens: Sequence[int], num_outputs: int) -> Logits:
    """The last rows of logits that a sequence has."""
    ends = range(len(tokens) - num_outputs + 1, len(tokens) + 1)
    return np.array([fake_logits(tuple(tokens[:end])) for end in ends])


def prompt(runtime: CheckpointRuntime, slot: int, length: int) -> None:
    """Begin with so much of the text."""
    (rows,) = decode(runtime, Segment(slot, 0, TEXT[:length], 1))
    assert np.array_equal(rows, expected(TEXT[:length], 1))


def verify(runtime: CheckpointRuntime, slot: int, held: int, num_right: int, num_wrong: int = 0) -> int:
    """Verify a draft of which so many tokens are right; return what is held then."""
    rows = [*TEXT[held : held + 1 + num_right], *[VOCABULARY_SIZE - 1] * num_wrong]
    (logits,) = decode(runtime, Segment(slot, held, rows, len(rows), num_tentative=len(rows) - 1))
    assert np.array_equal(logits[: 1 + num_right], expected(TEXT[: held + 1 + num_right], 1 + num_right))
    runtime.cut(slot, held + 1 + num_right)
    return held + 1 + num_right
