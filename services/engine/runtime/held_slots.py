"""What the slots of a model that keeps a state hold, and how the model gets back to what it was at before.

There are two ways. The state of a slot's base was saved and can be put back at any time; what came after it has to be
evaluated again. And llama.cpp has snapshots of some architectures (`n_rs_seq`), states after each of the last rows of a
decode: rows are taken back from there at no cost. It does that right for rows of the slot's last decode but for its
first, once, and before any other decode, which may move the state to where it has no snapshots. Of anything else it may
say that it was done, and go on from a wrong state. So nothing else is asked of it.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.engine.runtime.interface import Logits, Runtime, Segment
from services.engine.runtime.kept_states import EMPTY, Checkpoint


class StatefulRuntime(Runtime, Protocol):
    """A runtime whose slots have a state that can be saved and put back; `cut` takes `num_snapshots` rows at most."""

    num_snapshots: int

    def save(self, slot: int) -> Any:
        """Return the recurrent state of `slot`, with a length in bytes."""

    def put_back(self, slot: int, state: Any, length: int) -> None:
        """Give `slot` the state that it, or another slot, had when it held `length` tokens; None is that of none."""

    def share(self, source: int, target: int) -> None:
        """Let `target`, which is empty, hold what `source` holds but for the state, which is to be put back."""


@dataclass
class HeldSlot:
    """What is known of a slot: the tokens up to its base, whose state is saved, and those beyond, the tail."""

    base: Checkpoint = EMPTY
    tail: list[int] = field(default_factory=list)
    # Whether the model has evaluated the tail; else it is at the base.
    is_ahead: bool = True
    # Tokens that will not be taken back.
    num_firm: int = 0
    # Whether the last rows were a part of a prompt, of which more is to come.
    is_in_prompt: bool = False
    # Throw-away rows that the model has evaluated after the tail.
    num_padding: int = 0
    # Rows that snapshots can take back now, those included.
    num_reached: int = 0
    # Whether rows were taken back since the last decode: a copy would have them again.
    is_rolled_back: bool = False

    @property
    def length(self) -> int:
        """Tokens that the slot holds."""
        return self.base.length + len(self.tail)

    @property
    def rows_before(self) -> list[int]:
        """What has to be evaluated before anything else can be."""
        return [] if self.is_ahead else self.tail


class HeldSlots:
    """The slots of one runtime."""

    def __init__(self, inner: StatefulRuntime) -> None:
        self._inner = inner
        self._slots = [HeldSlot() for _ in range(inner.num_slots)]
        # Of the last decode: of no others can rows be taken back.
        self._last: list[int] = []

    def __getitem__(self, slot: int) -> HeldSlot:
        return self._slots[slot]

    def reached(self, num_rows: int) -> int:
        """Return how many of so many rows of one decode snapshots take back."""
        return min(num_rows - 1, self._inner.num_snapshots)

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        """Evaluate rows as they are; what they leave is told by `hold`. Raises DecodeError."""
        self.settle()
        return self._inner.decode(segments)

    def hold(self, slot: int, tokens: Sequence[int], num_rows: int, num_padding: int) -> None:
        """Take note of a decode of so many rows of `slot`, of which `tokens` were the last but for padding.

        Padding stays until tokens are taken back, as snapshots do that once, or until anything else is done. Where they
        do not reach it the base is put back at once.
        """
        held = self._slots[slot]
        held.tail = [*held.tail, *tokens]
        held.is_ahead, held.is_rolled_back = True, False
        held.num_padding, held.num_reached = num_padding, self.reached(num_rows)
        self._last.append(slot)
        if num_padding > held.num_reached:
            self.put_back(slot)

    def settle(self) -> None:
        """Take back the padding that is left: whatever comes next, snapshots reach nothing any more."""
        for slot in self._last:
            if self._slots[slot].num_padding:
                self.take_back(slot, self._slots[slot].length)
            self._slots[slot].num_reached = 0
        self._last = []

    def take_back(self, slot: int, length: int) -> bool:
        """Let the model go back to `length`, from padding too, where snapshots reach so far; return whether it did."""
        held = self._slots[slot]
        num_rows = held.length + held.num_padding - length
        if not 0 < num_rows <= held.num_reached:
            return False
        self._inner.cut(slot, length)
        held.num_padding = held.num_reached = 0
        held.is_rolled_back = True
        return True

    def put_back(self, slot: int) -> None:
        """Bring the model back to the base."""
        held = self._slots[slot]
        self._inner.put_back(slot, held.base.state, held.base.length)
        held.is_ahead, held.is_rolled_back = not held.tail, False
        held.num_padding = held.num_reached = 0

    def move_base(self, slot: int) -> None:
        """Save the state that the model has now."""
        self.settle()
        held = self._slots[slot]
        held.base, held.tail = Checkpoint(held.length, self._inner.save(slot)), []

    def shorten(self, slot: int, num_rows: int) -> None:
        """Evaluate so many rows of a tail by themselves, and move the base behind them. Raises DecodeError."""
        held = self._slots[slot]
        base, rows, rest = held.base, held.tail[:num_rows], held.tail[num_rows:]
        self.decode([Segment(slot, base.length, rows, 0)])
        held.base = Checkpoint(base.length + num_rows, self._inner.save(slot))
        held.tail, held.is_ahead = rest, not rest

    def share(self, source: int, target: int, held: HeldSlot) -> None:
        """Let `target`, which is empty, hold the beginning of what `source` holds."""
        self.settle()
        known = self._slots[source]
        if known.is_rolled_back:
            self._inner.put_back(source, self._inner.save(source), known.length)
            known.is_rolled_back = False
        self._inner.share(source, target)
        self._slots[target] = held
        self.put_back(target)

    def clear(self, slots: Container[int]) -> None:
        """Forget these after a decode that failed; it may have moved the states of others, which are put back."""
        self._last = []
        for slot, held in enumerate(self._slots):
            if slot in slots:
                self._slots[slot] = HeldSlot()
            if slot in slots or held.length:
                self.put_back(slot)
