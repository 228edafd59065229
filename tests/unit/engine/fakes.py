"""A model that is a pure function of the sequence, and that notices when a cache lies."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from services.engine.errors import DecodeError
from services.engine.runtime.decode_costs import DecodeCosts
from services.engine.runtime.interface import Logits, Segment
from services.engine.sampling import SamplingParams
from services.engine.sampling.reference import sample
from tests.waiting import PATIENCE_S

VOCABULARY_SIZE = 16
GREEDY = SamplingParams()


@lru_cache(maxsize=65536)
def fake_logits(sequence: tuple[int, ...]) -> NDArray[np.float32]:
    """The logits [vocabulary] that follow a sequence: every token of it counts."""
    seed = hashlib.sha256(repr(sequence).encode()).digest()
    return np.random.default_rng(list(seed[:8])).standard_normal(VOCABULARY_SIZE, np.float32)


def true_token(sequence: Sequence[int], params: SamplingParams = GREEDY) -> int:
    """The token that follows a sequence, computed from scratch."""
    return sample(fake_logits(tuple(sequence)).tolist(), len(sequence), params, list(sequence))


def true_text(prompt: Sequence[int], num_tokens: int, params: SamplingParams = GREEDY) -> list[int]:
    """The tokens that follow a prompt, computed from scratch one by one."""
    sequence = list(prompt)
    for _ in range(num_tokens):
        sequence.append(true_token(sequence, params))
    return sequence[len(prompt) :]


class FakeRuntime:
    """Implements `services.engine.runtime.runtime.Runtime`.

    Attributes:
        caches: the tokens of each slot.
        batches: the segments of every decode so far.
        complaints: broken promises of the caller, which also raise AssertionError in the caller's thread.
        gate: while it is cleared, decodes wait.
        num_entered: decodes that have begun; more than `len(batches)` while one waits at the gate.
        failing: numbers of decodes, the first is 0, that raise DecodeError after they have changed nothing.
        group_size: segments that are decoded together; 0 takes all.
        uncuttable: slots whose cache refuses to be cut.
    """

    def __init__(self, num_slots: int = 3, context_length: int = 64, max_batch_rows: int = 64) -> None:
        self.costs = DecodeCosts()
        self.num_slots = self.max_sessions = num_slots
        self.context_length = context_length
        self.max_batch_rows = max_batch_rows
        self.vocabulary_size = VOCABULARY_SIZE
        self.caches: list[list[int]] = [[] for _ in range(num_slots)]
        self.batches: list[list[Segment]] = []
        self.complaints: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.num_entered = 0
        self.failing: set[int] = set()
        self.group_size = 0
        self.uncuttable: set[int] = set()
        self.is_closed = False
        self._logits = np.empty((num_slots, max_batch_rows, VOCABULARY_SIZE), np.float32)

    @property
    def num_decodes(self) -> int:
        return len(self.batches)

    @property
    def is_waiting(self) -> bool:
        """Whether a decode waits at the gate."""
        return self.num_entered > len(self.batches)

    def padded_rows(self, num_sessions: int, num_rows: int) -> int:
        return num_sessions * num_rows

    def group(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        size = self.group_size or len(segments)
        return [list(segments[first : first + size]) for first in range(0, len(segments), size)]

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        segments = [replace(segment, tokens=list(segment.tokens)) for segment in segments]
        self._check(segments)
        self.num_entered += 1
        if not self.gate.wait(PATIENCE_S):
            self._complain("nobody opened the gate")
        number = len(self.batches)
        self.batches.append(segments)
        # Logits of an earlier decode are valid no longer.
        self._logits.fill(np.nan)
        if number in self.failing:
            raise DecodeError("told to fail")
        return [self._evaluate(segment) for segment in segments]

    def reachable(self, slot: int, length: int) -> int:
        return length

    def cut(self, slot: int, length: int) -> None:
        if slot in self.uncuttable:
            raise DecodeError(f"slot {slot} was told not to be cut")
        if length > len(self.caches[slot]):
            self._complain(f"slot {slot} holds {len(self.caches[slot])} tokens, and was cut at {length}")
        del self.caches[slot][length:]

    def attention_digest(self, slot: int, position: int) -> bytes:
        return b""

    def copy(self, source: int, target: int, length: int) -> None:
        if self.caches[target]:
            self._complain(f"slot {target} holds tokens and was copied to")
        if length > len(self.caches[source]):
            self._complain(f"slot {source} holds {len(self.caches[source])} tokens, and {length} were copied")
        self.caches[target] = self.caches[source][:length]

    def close(self) -> None:
        self.is_closed = True

    def _evaluate(self, segment: Segment) -> Logits:
        rows = self._logits[segment.slot]
        cache = self.caches[segment.slot]
        for index, token in enumerate(segment.tokens):
            cache.append(token)
            rows[index] = fake_logits(tuple(cache))
        return rows[len(segment.tokens) - segment.num_outputs : len(segment.tokens)]

    def _check(self, segments: Sequence[Segment]) -> None:
        if self.is_closed:
            self._complain("decode after close")
        slots = [segment.slot for segment in segments]
        if not slots or len(set(slots)) != len(slots):
            self._complain(f"a decode of slots {slots}")
        if sum(len(segment.tokens) for segment in segments) > self.max_batch_rows:
            self._complain(f"a decode of more than {self.max_batch_rows} rows")
        for segment in segments:
            held = self.caches[segment.slot]
            if segment.first_position != len(held):
                self._complain(f"slot {segment.slot} holds {len(held)} tokens, rows begin at {segment.first_position}")
            if not 0 <= segment.num_outputs <= len(segment.tokens) or not segment.tokens:
                self._complain(f"{segment.num_outputs} outputs of {len(segment.tokens)} rows")
            if len(held) + len(segment.tokens) > self.context_length:
                self._complain(f"slot {segment.slot} overflows")
            if not all(0 <= token < VOCABULARY_SIZE for token in segment.tokens):
                self._complain(f"unknown tokens in {segment.tokens}")

    def _complain(self, complaint: str) -> None:
        self.complaints.append(complaint)
        raise AssertionError(complaint)
