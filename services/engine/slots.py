"""Which session sits in which slot, and what each slot holds. Pure bookkeeping: nothing here touches the model."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from services.frame.digest import TokenSequence


@dataclass(eq=False)
class Slot:
    """One llama sequence of fixed context size."""

    index: int
    held: TokenSequence = field(default_factory=TokenSequence)
    session_id: str | None = None
    is_busy: bool = False


class SlotTable:
    """Sessions in slots: released sessions leave first, then the least recently used.

    A busy one never does, nor one that is about to come back.
    """

    def __init__(
        self,
        num_slots: int,
        is_expected: Callable[[str], bool] = lambda session_id: False,
        on_evicted: Callable[[str], object] = lambda session_id: None,
    ) -> None:
        """`is_expected` says whether a session is between two requests; `on_evicted` is told who lost its slot."""
        self.slots = [Slot(index) for index in range(num_slots)]
        self._is_expected = is_expected
        self._on_evicted = on_evicted
        # Session to slot, the one to evict first in front.
        self._sessions: OrderedDict[str, Slot] = OrderedDict()
        self.num_evictions = 0

    def find(self, session_id: str) -> Slot | None:
        """Return the session's slot without taking it."""
        return self._sessions.get(session_id)

    def take(self, session_id: str) -> Slot | None:
        """Return the session's slot, marked busy, evicting another session where needed; None where none can go.

        A slot that changes hands keeps its tokens: the caller decides what of them can be used.
        """
        slot = self._sessions.get(session_id) or self._free() or self._evict()
        if slot is None or slot.is_busy:
            return None
        slot.session_id, slot.is_busy = session_id, True
        self._sessions[session_id] = slot
        self._sessions.move_to_end(session_id)
        return slot

    def release(self, session_id: str) -> None:
        """Let the session's slot go first when another needs one."""
        if session_id in self._sessions:
            self._sessions.move_to_end(session_id, last=False)

    def _free(self) -> Slot | None:
        return next((slot for slot in self.slots if slot.session_id is None), None)

    def _evict(self) -> Slot | None:
        for session_id, slot in self._sessions.items():
            if not slot.is_busy and not self._is_expected(session_id):
                del self._sessions[session_id]
                self.num_evictions += 1
                self._on_evicted(session_id)
                slot.session_id = None
                return slot
        return None
