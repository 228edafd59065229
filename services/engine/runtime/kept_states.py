"""States that slots had, kept for those who begin alike, within a bound in bytes."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Checkpoint:
    """The state of a slot at a length; none at 0."""

    length: int
    state: Any = None

    @property
    def num_bytes(self) -> int:
        """Size of the state."""
        return len(self.state) if self.state is not None else 0


EMPTY = Checkpoint(0)


class KeptStates:
    """Checkpoints by slot. The oldest go where there are too many."""

    def __init__(self, most_bytes: int) -> None:
        """Keep at most so many bytes of states."""
        self._most_bytes = most_bytes
        # The oldest first.
        self._kept: list[tuple[int, Checkpoint]] = []
        self.num_bytes = 0

    def add(self, slot: int, checkpoint: Checkpoint) -> None:
        """Keep one more."""
        self._kept.append((slot, checkpoint))
        self.num_bytes += checkpoint.num_bytes
        while self.num_bytes > self._most_bytes:
            self.num_bytes -= self._kept.pop(0)[1].num_bytes

    def last(self, slot: int, length: int) -> Checkpoint:
        """Return the slot's longest of at most so many tokens."""
        kept = [each for index, each in self._kept if index == slot and each.length <= length]
        return max(kept, key=lambda each: each.length, default=EMPTY)

    def drop(self, slot: int, length: int) -> None:
        """Forget those of the slot that are longer."""
        self._kept = [(index, kept) for index, kept in self._kept if index != slot or kept.length <= length]
        self.num_bytes = sum(kept.num_bytes for _, kept in self._kept)
