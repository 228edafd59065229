"""Who has a slot: first come, first served, and with what the slot, or another one, already holds of the sequence."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from services.engine.errors import DecodeError, EngineError, SlotsTakenError
from services.engine.runtime.interface import Runtime
from services.engine.scheduling.slots import Slot, SlotTable
from services.engine.scheduling.work import Miss, Prefix, Work


class Admission:
    """Gives slots to works; those that cannot have one yet wait, until `admit` finds one for them."""

    def __init__(
        self,
        runtime: Runtime,
        slots: SlotTable,
        on_admitted: Callable[[Work[Any]], object],
        on_answer: Callable[[Work[Any], object], object],
    ) -> None:
        """`on_admitted` is told who has a slot now, `on_answer` who gets none, and what the answer is instead."""
        self.slots = slots
        self._runtime = runtime
        self._on_admitted = on_admitted
        self._on_answer = on_answer
        self._waiting: deque[Work[Any]] = deque()

    @property
    def num_waiting(self) -> int:
        """Pieces of work that have no slot yet."""
        return len(self._waiting)

    def add(self, work: Work[Any]) -> None:
        """Give the work its slot, or let it wait."""
        if not self._try(work, may_take_slot=not self._waiting):
            self._waiting.append(work)

    def admit(self) -> None:
        """Give slots to those that wait; what cannot have one yet goes on waiting."""
        waiting, self._waiting = self._waiting, deque()
        may_take_slot = True
        for work in waiting:
            if not self._try(work, may_take_slot=may_take_slot):
                self._waiting.append(work)
                may_take_slot = may_take_slot and self.slots.find(work.prefix.session_id) is not None

    def release(self, session_id: str) -> None:
        """Let the session's slot go first when another session needs one."""
        self.slots.release(session_id)
        self.admit()

    def cut(self, slot: Slot, length: int) -> None:
        """Let the slot hold no more than so many tokens. Raises DecodeError."""
        if length < len(slot.held):
            self._runtime.cut(slot.index, length)
            slot.held.cut(length)

    def end(self, error: EngineError) -> None:
        """Answer those that wait with `error`."""
        for work in self._waiting:
            self._on_answer(work, error)
        self._waiting.clear()

    def _try(self, work: Work[Any], *, may_take_slot: bool) -> bool:
        """Return whether the work was given a slot or an answer. A session's own slot is always given."""
        if refusal := work.refusal():
            self._on_answer(work, refusal)
            return True
        prefix = work.prefix
        slot = self.slots.find(prefix.session_id)
        if slot is not None and slot.is_busy:
            return False
        if prefix.cached_length and (miss := self._miss(slot, prefix)):
            self._on_answer(work, miss)
            return True
        comes_back = slot is not None
        slot = self.slots.assign(prefix.session_id, prefix.tokens) if comes_back or may_take_slot else None
        if slot is None:
            if not work.waits_for_slot:
                self._on_answer(work, SlotsTakenError("every slot is needed by another session"))
            return not work.waits_for_slot
        work.slot = slot
        try:
            if comes_back and (nearer := self.slots.nearer(prefix.session_id)) is not None:
                self._move(slot, nearer)
                work.slot = slot = nearer
            # Rows whose logits are wanted are always evaluated, at least the last one: logits are not kept.
            num_reusable = len(work.pending) - work.num_outputs
            self._reuse(slot, prefix.cached_length, prefix.tokens[:num_reusable])
        except DecodeError as error:
            work.slot.is_busy = False
            self._on_answer(work, error)
            return True
        work.num_cached = len(slot.held)
        work.pending = work.pending[work.num_cached - prefix.cached_length :]
        self._on_admitted(work)
        return True

    def _miss(self, slot: Slot | None, prefix: Prefix) -> Miss | None:
        """Return what is held where that is not the cached part of the prefix, or cannot be cut to it."""
        if slot is None:
            return Miss(0, b"")
        if slot.held.has_prefix(prefix.cached_length, prefix.cached_digest):
            length = self._runtime.reachable(slot.index, prefix.cached_length)
            if length == prefix.cached_length:
                return None
            self.cut(slot, length)
        return Miss(len(slot.held), slot.held.digests[-1])

    def _reuse(self, slot: Slot, cached_length: int, tokens: Sequence[int]) -> None:
        """Cut the slot to what it has in common with the prefix, or take that from a slot that has more of it."""
        length = self._runtime.reachable(slot.index, slot.held.common_length(cached_length, tokens))
        self.cut(slot, length)
        if cached_length:
            return
        donor = max(self.slots.slots, key=lambda other: other.held.common_length(0, tokens))
        shared = self._runtime.reachable(donor.index, donor.held.common_length(0, tokens))
        if shared > length + self._runtime.costs.copy_in_rows:
            self.cut(slot, 0)
            self._runtime.copy(donor.index, slot.index, shared)
            slot.held.extend(tokens[:shared])

    def _move(self, source: Slot, target: Slot) -> None:
        """Let the session of a slot go on in another one, which nobody needs, nearer to others."""
        self.cut(target, 0)
        self._runtime.copy(source.index, target.index, len(source.held))
        target.held.extend(source.held.tokens)
        self.slots.move(str(source.session_id), target)
