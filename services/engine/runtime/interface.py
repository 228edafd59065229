"""What the engine needs of a model: rows in, logits out, cache cut.

No llama.cpp here, so others can take its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.engine.runtime.decode_costs import DecodeCosts

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of one slot in a decode: `tokens` from `first_position` on, logits wanted for the last ones.

    `num_padding` throw-away rows follow them, the first `num_padding_outputs` with logits; the caller cuts their cache
    entries. The last `num_tentative` tokens may be taken back later, as those of a draft are.
    """

    slot: int
    first_position: int
    tokens: Sequence[int]
    num_outputs: int
    num_padding: int = 0
    num_padding_outputs: int = 0
    num_tentative: int = 0

    @property
    def num_rows(self) -> int:
        """Number of rows, padding included."""
        return len(self.tokens) + self.num_padding


class Runtime(Protocol):
    """What the engine needs of a model; tests put a fake in its place.

    `costs` are of its decodes, which take at most `max_sessions` and `max_batch_rows`.
    """

    costs: DecodeCosts
    num_slots: int
    max_sessions: int
    context_length: int
    max_batch_rows: int
    vocabulary_size: int

    def padded_rows(self, num_sessions: int, num_rows: int) -> int:
        """Return how many rows one decode has of so many sessions, of which the one with most has `num_rows`."""

    def group(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        """Part segments of different slots into groups that are decoded one after the other."""

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        """Evaluate one group; return logits [rows with output, vocabulary] of each segment, valid until the next call.

        Raises:
            DecodeError: the model failed; the slots hold at most what they held before, see `reachable`.
        """

    def reachable(self, slot: int, length: int) -> int:
        """Return the largest length, at most `length`, which the slot holds at least, that the slot can be cut to."""

    def cut(self, slot: int, length: int) -> None:
        """Drop the cache of `slot` from position `length` on. Raises DecodeError when that is impossible."""

    def attention_digest(self, slot: int, position: int) -> bytes:
        """Return a digest of what attention gave in all layers for a row of the last decode; empty if none is taken."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot `target`, which is empty, the first `length` positions of slot `source`; they are reachable."""

    def close(self) -> None:
        """Free everything."""
