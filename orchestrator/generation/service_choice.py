"""Which of several draft services drafts: the one whose drafts are worth most, and now and then another, to know it."""

from collections.abc import Callable, Sequence

from orchestrator.drafting.drafter import REMOTE, Draft
from orchestrator.drafting.experience import Experience, Record

# A change costs a catch-up: the service has to read what it lacks. So there are so many cycles between two of them, and
# the other service has to be worth more by so many tokens a cycle.
_LEAST_CYCLES = 20
_MARGIN = 0.05
# Drafts of a visit, and their tokens. What the first one takes says little, as there may be much to read before it.
_NUM_VISIT = 5
VISIT_TOKENS = 4
# No more time for exploration is saved than so many visits take, or drafts of the only service.
_MOST_SAVED = 2.0


class ServiceChoice:
    """The draft service of one request, which begins with the one that requests before it came to.

    Another service is visited for a few drafts where the time for exploration allows it, which all requests share: the
    one that was not tried for longest. Where there is one service, there is nothing to choose.
    """

    def __init__(self, experience: Experience) -> None:
        self._experience = experience
        # The one that is used, and the one that is visited meanwhile.
        self._used = experience.service
        self._visited: int | None = None
        self._num_left = 0
        # Since the last change.
        self._num_cycles = 0
        # Whether this request asks draft services at all.
        self._has_asked = False

    @property
    def service(self) -> int:
        """The one that is to draft now."""
        return self._used if self._visited is None else self._visited

    @property
    def is_visit(self) -> bool:
        """Whether it is there to be tried."""
        return self._visited is not None

    def choose(
        self,
        rooms: Sequence[int],
        worth: Callable[[int], float],
        *,
        is_drafting: bool,
    ) -> int:
        """Return the service for the next cycle.

        `rooms` are the most draft tokens of each, 0 where it cannot be used. `worth` tells how many tokens a cycle the
        drafts of one bring, less what their time would bring otherwise; -inf where that is not known. Where the one
        that is used is not worth drafting (`is_drafting`), all have to be tried, itself too.
        """
        if len(rooms) == 1 or not any(rooms):
            return self.service
        self._num_cycles += 1
        if self._visited is not None:
            self._num_left -= 1
            if not self._num_left:
                # What it has read is worth nothing later: it is used from now on, or left.
                self._end_visit()
                self._settle(rooms, worth)
        elif not rooms[self._used] or self._num_cycles > _LEAST_CYCLES:
            self._settle(rooms, worth)
            if self._has_asked and self._num_cycles > _LEAST_CYCLES:
                self._visit(is_drafting=is_drafting)
        return self.service

    def note(self, draft: Draft) -> None:
        """Learn who drafted: another service, where the one that was chosen did not try."""
        if draft.drafter != REMOTE:
            return
        self._has_asked = True
        if self._visited is None and draft.service != self._used:
            # For a reason of this request, perhaps: others go on as they are.
            self._used, self._num_cycles = draft.service, 0
        elif self._visited is not None and draft.service != self._visited:
            self._end_visit()
        elif self._visited is not None and self._num_left == _NUM_VISIT:
            # The times that are known are of another load.
            self._record(draft.service).forget_times()

    def spend(self, draft: Draft, verification_s: float, num_waiting: int, try_s: float, *, is_drafting: bool) -> None:
        """Let a cycle pass, and pay for what it explored; `num_waiting` requests share its decode, and wait alike.

        The only service is explored by drafts while they are not worth it, each of which takes about `try_s`, and time
        is saved up meanwhile.
        """
        records, exploration = self._experience.remote, self._experience.exploration
        is_only = len(records) == 1
        if is_only and is_drafting:
            return
        longest_s = try_s if is_only else max(map(self._visit_s, records))
        exploration.elapse(draft.waited_s + verification_s, _MOST_SAVED * longest_s)
        exploration.take(draft.read_s or 0.0)
        if self.is_visit and draft.drafter == REMOTE:
            # It takes the place of a cycle that is known to be good.
            exploration.take(num_waiting * draft.waited_s + verification_s)
        elif not is_drafting:
            exploration.take(num_waiting * draft.waited_s)

    def _settle(self, rooms: Sequence[int], worth: Callable[[int], float]) -> None:
        best = max((service for service, room in enumerate(rooms) if room), key=worth)
        if not rooms[self._used] or worth(best) > worth(self._used) + _MARGIN:
            self._use(best)

    def _use(self, service: int) -> None:
        self._used = self._experience.service = service
        self._num_cycles = 0

    def _visit(self, *, is_drafting: bool) -> None:
        """Visit the one that was not tried for longest, where there is time for it."""
        # One that is lost, too: who tries finds out whether it is back.
        services = enumerate(self._experience.services)
        others = [
            service
            for service, each in services
            if not each.breaker.is_disabled and not (is_drafting and service == self._used)
        ]
        longest = min(others, key=lambda service: self._record(service).tried_s, default=None)
        if longest is None:
            return
        record, exploration = self._record(longest), self._experience.exploration
        if exploration.may_take(self._visit_s(record), record.tried_s):
            self._visited, self._num_left = longest, _NUM_VISIT
            record.tried_s = exploration.elapsed_s

    def _visit_s(self, record: Record) -> float:
        """Return how long the cycles of a visit take; as long as they may, where nothing is known of the service."""
        draft_s = record.usual_s(VISIT_TOKENS) if record.comes.count else self._experience.limit_s
        return _NUM_VISIT * (self._experience.plain_s.value + draft_s)

    def _end_visit(self) -> None:
        self._visited, self._num_cycles = None, 0

    def _record(self, service: int) -> Record:
        return self._experience.remote[service]
