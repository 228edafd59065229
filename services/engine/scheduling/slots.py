"""Which session sits in which slot, and what each slot holds. Pure bookkeeping: nothing here touches the model."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.session.sequence import TokenSequence

# What a gap between sessions at work costs, in rows of padding, where the usual company does not fill it. And the most
# that what a slot holds of a prompt is worth, in rows: more can be copied from there.
_GAP_ROWS, _MOST_SAVED_ROWS = 32, 256
# Tokens at the end of a chat's prompt that may be others once the chat goes on: there an answer was to begin.
_OPEN_TOKENS = 16
# A gap beside a session that comes back is closed after so many times: while a company gathers, others fill it.
_MOST_GAPS = 8


@dataclass(eq=False)
class Slot:
    """One llama sequence of fixed context size."""

    index: int
    held: TokenSequence = field(default_factory=TokenSequence)
    session_id: str | None = None
    is_busy: bool = False
    # Of the session that has it: tokens that it began with.
    num_first_tokens: int = 0


class SlotTable:
    """Sessions in slots: released sessions leave first, then the least recently used.

    A busy one never does, nor one that is about to come back. Sessions at work sit side by side where they can: gaps
    between them are padded in every decode.
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
        # Session to slot, the one to evict first in front, and the sessions that are over.
        self._sessions: OrderedDict[str, Slot] = OrderedDict()
        self._released: set[str] = set()
        # Sessions at work at a time: as many as there were lately, when more of them came.
        self._usual_company = 0.0
        # How often, one after the other, sessions were seen with gaps between them, and these in rows of padding.
        self._num_gaps, self._num_padded = 0, 0.0
        self.num_evictions = 0

    @property
    def num_held_tokens(self) -> int:
        """Tokens in the slots of sessions that are not over. Any thread may ask."""
        return sum(len(slot.held) for slot in self.slots if not self._is_over(slot))

    def find(self, session_id: str) -> Slot | None:
        """Return the session's slot, whether it is busy or not."""
        return self._sessions.get(session_id)

    def assign(self, session_id: str, tokens: Sequence[int] = ()) -> Slot | None:
        """Return the session's slot, marked busy, evicting another session where needed; None where none can go.

        A new session begins with `tokens`. A slot that changes hands keeps its tokens: the caller decides what of them
        can be used.
        """
        slot = self._sessions.get(session_id) or self._cheapest_free(tokens) or self._least_recently_used()
        if slot is None or slot.is_busy:
            return None
        if slot.session_id is not None and slot.session_id != session_id:
            self._evict(slot.session_id)
        if slot.session_id != session_id:
            slot.num_first_tokens = len(tokens)
        self._released.discard(session_id)
        slot.session_id, slot.is_busy = session_id, True
        self._sessions[session_id] = slot
        self._sessions.move_to_end(session_id)
        return slot

    def release(self, session_id: str) -> None:
        """Let the session's slot go first when another needs one."""
        if session_id in self._sessions:
            self._released.add(session_id)

    def nearer(self, session_id: str) -> Slot | None:
        """Return a free slot for a session to move to, nearer to others at work, if it is the outermost and gaps stay.

        Asked whenever a session comes back: they may have come to their slots in a larger company. What the slot holds
        is lost, a prompt of a chat that may go on: not before the gaps have taken as many rows of padding.
        """
        working = [slot.index for slot in self.slots if slot.is_busy or self._is_held(slot)]
        own = self._sessions[session_id].index
        places = sorted({*working, own})
        num_gaps = places[-1] - places[0] + 1 - len(places)
        self._num_gaps = self._num_gaps + 1 if num_gaps else 0
        # Each of them asks once in a round, which pads every gap.
        self._num_padded = self._num_padded + num_gaps / len(places) if num_gaps else 0.0
        if self._num_gaps <= _MOST_GAPS or own not in (places[0], places[-1]):
            return None
        others = [place for place in places if place != own]

        def num_slots(slot: Slot) -> int:
            return max(others[-1], slot.index) - min(others[0], slot.index) + 1

        between = self.slots[places[0] + 1 : places[-1]]
        free = [slot for slot in between if not slot.is_busy and self._is_over(slot)]
        found = min((slot for slot in free if self._num_lost(slot) <= self._num_padded), key=num_slots, default=None)
        if found is not None:
            self._num_gaps, self._num_padded = 0, 0.0
        return found

    def move(self, session_id: str, target: Slot) -> None:
        """Give a session another slot, which nobody needs; what both hold is the caller's affair."""
        source = self._sessions[session_id]
        if target.session_id is not None:
            self._evict(target.session_id)
        target.session_id, target.num_first_tokens = session_id, source.num_first_tokens
        target.is_busy, source.session_id, source.is_busy = source.is_busy, None, False
        self._sessions[session_id] = target

    def _cheapest_free(self, tokens: Sequence[int]) -> Slot | None:
        """Return, of slots that nobody has, or else needs, the one that saves most of a prompt and makes no gaps.

        Gaps that the usual company fills are none. Of equal ones it is one that nobody has, and one between those at
        work, or else the nearest to them; where nobody is at work the one that was used least recently.
        """
        working = [slot.index for slot in self.slots if slot.is_busy or self._is_held(slot)]
        first, last = min(working, default=0), max(working, default=0)
        company = len(working) + 1
        usual = max(1.0, self._usual_company)
        # Each company begins with one: by the time that it is complete again, it has lost half a session.
        self._usual_company = max(company, usual + (company - usual) / usual**2)
        ages = {slot.index: age for age, slot in enumerate(self._sessions.values())}

        def cost(slot: Slot) -> tuple[float, bool, bool, int]:
            num_slots = max(last, slot.index) - min(first, slot.index) + 1 if working else 1
            num_gaps = max(0.0, num_slots - max(self._usual_company, last - first + 2))
            is_outside = not first < slot.index < last
            nearest = min((abs(slot.index - index) for index in working), default=ages.get(slot.index, slot.index))
            return _GAP_ROWS * num_gaps - _num_saved(slot, tokens), slot.session_id is not None, is_outside, nearest

        free = [slot for slot in self.slots if not slot.is_busy and self._is_over(slot)]
        return min(free, key=cost, default=None)

    def _num_lost(self, slot: Slot) -> int:
        """Return how many tokens are lost with what a slot holds: none that another one holds too."""
        held = slot.held
        is_kept = any(each is not slot and each.held.has_prefix(len(held), held.digests[-1]) for each in self.slots)
        return 0 if is_kept else len(held)

    def _is_over(self, slot: Slot) -> bool:
        return slot.session_id is None or slot.session_id in self._released

    def _is_held(self, slot: Slot) -> bool:
        return slot.session_id is not None and self._is_expected(slot.session_id)

    def _least_recently_used(self) -> Slot | None:
        for slot in self._sessions.values():
            if not slot.is_busy and not self._is_held(slot):
                return slot
        return None

    def _evict(self, session_id: str) -> None:
        del self._sessions[session_id]
        self._released.discard(session_id)
        self.num_evictions += 1
        self._on_evicted(session_id)


def _num_saved(slot: Slot, tokens: Sequence[int]) -> int:
    """Return how many rows it saves a prompt of a new session to begin with what a slot holds.

    Where it has no more than a beginning in common with the chat there, less the rows that this would have to evaluate
    again if it went on: the beginning can be copied.
    """
    num_common = slot.held.common_length(0, tokens)
    is_same_chat = num_common >= slot.num_first_tokens - _OPEN_TOKENS
    num_lost = 0 if is_same_chat else len(slot.held) - num_common
    return max(0, min(num_common, _MOST_SAVED_ROWS) - num_lost)
