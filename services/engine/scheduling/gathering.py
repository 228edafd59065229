"""When a decode begins: at once, or once the sessions that were answered are back. Pure but for its clock.

Left alone, sessions fall into groups that take turns and never share a decode, and many rows cost little more than
few. So a decode waits for sessions that are between two cycles, as long as one decode is quicker than two: than two
as they usually are, beside each of which the other's sessions draft, on the same cores perhaps. Return times that
were seen say little, since drafts beside a decode look slow. So nothing is predicted. A session that was waited for
in vain, or that alone kept all others waiting for longer than that, is late and not waited for any more, until it
comes back in time, and all the same after 2, 4, 8 and at last every 64 answers, as without waiting nobody may ever be
in time. Whether waiting pays at all is found out by doing without it for a while (`Comparison`).
"""

import statistics
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from services.engine.runtime.decode_costs import DecodeCosts
from services.engine.scheduling.comparison import Comparison

# Share of the longest wait that is left where waiting does not pay.
_SHORT_SHARE = 0.1
# A session that was answered is expected for so many of its usual return times, but for no less than this. One that is
# new is taken for what new ones were lately: those that lost their slot and did not come back count as quickest.
_RETURNS, _LEAST_EXPECTED_S = 2.0, 0.25
_NUM_RETURNS = 8
_MOST_EVICTED = 256
# Sessions that are answered together do not come back in the same moment: how long the first waits for the last at
# least, and the most that this may take of a decode.
_SPREAD_S, _SPREAD_SHARE = 0.005, 0.25
# Whoever is back within this share of a round is waited for, whether that pays or not: it would lose a round.
_FAIR_SHARE = 0.05
# Two groups in turns have to be quicker than all together by this factor; where they are at it already, by less.
_PARTING, _PARTED = 1.03, 1.0
# For how many answers a session counts as one that drafts after it has drafted.
_NUM_DRAFTING = 16
# A session that was late so many times in a row is not waited for for 2 to that power answers.
_MOST_DOUBTS = 6


@dataclass
class _Session:
    """What is known of a session: `answered_s` is None while it is here, `usual_tokens` is a mean over its answers.

    `group` is the decode that it had a part in last: with whom it shared it, it goes on where the company is parted.
    Back before `missed_until_s`, it would have been worth the wait of the first decode that it missed.
    """

    num_rows: int = 1
    group: int = 0
    num_drafting: int = 0
    usual_tokens: float = 1.0
    returns_s: deque[float] = field(default_factory=lambda: deque(maxlen=_NUM_RETURNS))
    usual_return_s: float = 0.0
    longest_return_s: float = 0.0
    answered_s: float | None = None
    missed_until_s: float | None = None
    is_late: bool = False
    num_doubts: int = 0
    num_unawaited: int = 0

    def come_back(self, away_s: float) -> None:
        """It was away for so long."""
        self.returns_s.append(away_s)
        # Asked for many times in each round.
        self.usual_return_s = statistics.median(self.returns_s)
        self.longest_return_s = max(self.returns_s)

    def doubt(self) -> None:
        """It was waited for in vain, or for too long."""
        self.num_doubts = min(self.num_doubts + 1, _MOST_DOUBTS)
        self.num_unawaited = 1 << self.num_doubts
        self.is_late = True


class _Here(NamedTuple):
    """The sessions that are here: how many, the tokens that they usually bring, and how long they usually are away."""

    num_sessions: int
    num_tokens: float
    usual_return_s: float


class Gathering:
    """Is told who was answered and who arrived, and says until when the next decode waits."""

    def __init__(self, costs: DecodeCosts, clock: Callable[[], float] | None = None, *, parts: bool = True) -> None:
        """`clock` tells seconds; `time.perf_counter` if absent. Whether the company `parts` where that is quicker."""
        self._costs = costs
        # Looked up now, as a simulation has put its own in that place.
        self._clock = clock or time.perf_counter
        self._sessions: dict[str, _Session] = {}
        self._first_returns_s: deque[float] = deque(maxlen=_NUM_RETURNS)
        # Sessions that lost their slot, and when they had been answered, the oldest first.
        self._evicted: OrderedDict[str, float] = OrderedDict()
        self._comparison = Comparison()
        self._parting = Comparison()
        self._is_parted = False
        # Whether work goes on from token to token here, so that decodes are no rounds.
        self._goes_on = False
        self._parts = parts
        # When the next decode could have begun, with how many rows, and when the last one to join it came.
        self._ready_s: float | None = None
        self._num_ready_rows = self._num_padded_rows = 0
        self._joined_s = 0.0
        # When the last decode began, and what was answered since.
        self._begun_s: float | None = None
        self._num_decodes = 0
        self._num_tokens = 0.0

    def arrived(self, session_id: str, asked_s: float | None = None) -> None:
        """A session asks for something; it did so at `asked_s`, where that is noticed later."""
        if (answered_s := self._evicted.pop(session_id, None)) is not None:
            self._first_returns_s.append(self._clock() - answered_s)
        session = self._sessions.get(session_id)
        if session is None or session.answered_s is None:
            return
        now_s = self._clock()
        came_s = now_s if asked_s is None else asked_s
        away_s = max(0.0, came_s - session.answered_s)
        if not session.returns_s:
            self._first_returns_s.append(away_s)
        session.come_back(away_s)
        if session.is_late:
            # One that comes while others are decoded is noticed after that.
            session.is_late = session.missed_until_s is not None and came_s > session.missed_until_s
        elif self._kept_waiting(now_s):
            session.doubt()
        else:
            session.num_doubts = 0
        session.answered_s = session.missed_until_s = None
        self._joined_s = now_s

    def answered(self, session_id: str, num_rows: int, num_tokens: int, *, may_draft: bool = False) -> None:
        """A session was answered with so many tokens; its last decode had so many rows of it.

        One that `may_draft` does as soon as that pays, and by the same prices as others.
        """
        session = self._sessions.setdefault(session_id, _Session())
        session.num_rows, session.group = num_rows, self._num_decodes
        session.num_drafting = _NUM_DRAFTING if num_rows > 1 or may_draft else session.num_drafting - 1
        session.answered_s = self._clock()
        session.num_unawaited -= 1
        session.is_late = session.is_late and session.num_unawaited > 0
        # Each answer counts as is usual for its session: a lucky draft is no merit of the company.
        session.usual_tokens += 0.1 * (num_tokens - session.usual_tokens)
        self._num_tokens += session.usual_tokens

    def left(self, session_id: str) -> None:
        """A session was released, or failed."""
        self._sessions.pop(session_id, None)

    def evicted(self, session_id: str) -> None:
        """A session lost its slot to another one. When it comes back soon, it should have kept it."""
        session = self._sessions.pop(session_id, None)
        if session is None or session.answered_s is None:
            return
        if not session.returns_s:
            self._first_returns_s.append(0.0)
        self._evicted[session_id] = session.answered_s
        if len(self._evicted) > _MOST_EVICTED:
            self._evicted.popitem(last=False)

    def is_expected(self, session_id: str) -> bool:
        """Whether a session was answered and has been away no longer than usual."""
        return (session := self._sessions.get(session_id)) is not None and self._is_expected(session)

    @property
    def is_between_cycles(self) -> bool:
        """Whether any session is expected."""
        return any(map(self._is_expected, self._sessions.values()))

    @property
    def num_present(self) -> int:
        """Sessions that are here or expected."""
        return len(self._present())

    @property
    def num_drafting(self) -> int:
        """Those of them that draft, or would if that paid; all where none does."""
        present = self._present()
        return sum(session.num_drafting > 0 for session in present) or len(present)

    def _present(self) -> list[_Session]:
        return [each for each in self._sessions.values() if each.answered_s is None or self._is_expected(each)]

    def most_together(self) -> int | None:
        """Return how many sessions to decode together at most: None for all of them, or half.

        Where sessions are away for longer than a decode takes, two groups that take turns are quicker: one is decoded
        while the other drafts, and nobody waits. Sessions that are answered together never part by themselves.
        """
        if not self._parts or self._goes_on:
            return None
        present = self._present()
        num_present = len(present)
        if num_present < 2:
            return None
        away_s = statistics.median(each.usual_return_s for each in present)
        num_rows = sum(each.num_rows for each in present)
        half_s = self._costs.decode_s(-(-num_rows // 2))
        together_s = self._costs.decode_s(num_rows) + away_s
        factor = _PARTED if self._is_parted else _PARTING
        self._is_parted = factor * max(2 * half_s, half_s + away_s) < together_s
        is_parted = self._is_parted == self._parting.waits(num_present)
        return -(-num_present // 2) if is_parted else None

    def until_s(self, num_ready_rows: int, num_padded_rows: int = 0) -> float:
        """Return until when the decode of what is ready waits; now or earlier where there is nobody to wait for.

        It would have `num_padded_rows`, if these are more: of slots between those who are here, too. To be asked again
        whenever a session has arrived.
        """
        ready_s = self._ready_since(num_ready_rows, num_padded_rows)
        awaited = self._awaited()
        if not awaited:
            return ready_s
        patience_s = self._worth_s(awaited, self._here())
        if any(session.num_doubts for session in awaited):
            # One decode of all was not seen lately, and may be quicker than it is thought to be.
            patience_s = max(patience_s, self._costs.usual_s(min(num_ready_rows, _num_rows(awaited))))
        return ready_s + (patience_s if self._comparison.waits(self.num_present) else _SHORT_SHARE * patience_s)

    def held_up(self) -> None:
        """Another process had the cores until now: the wait for those whose draft that was cost nothing.

        It begins anew, as long as any of them is expected, or was answered just now.
        """
        if self._ready_s is not None and any(self._is_expected(each, _LEAST_EXPECTED_S) for each in self._awaited()):
            self._ready_s = self._joined_s = self._clock()

    def begin(self, num_ready_rows: int, num_padded_rows: int = 0) -> None:
        """The decode of what is ready begins: who is still away is late."""
        ready_s, here = self._ready_since(num_ready_rows, num_padded_rows), self._here()
        for session in self._away() if self.most_together() is None else ():
            if session.missed_until_s is None:
                session.missed_until_s = ready_s + self._worth_s([session], here)
            if not session.is_late:
                session.doubt()
        self._end_round(self._clock())
        self._num_decodes += 1
        self._ready_s = None

    def join(self, *, goes_on: bool) -> None:
        """What is ready waits for nobody: it is a prompt alone, or joins work that `goes_on` from token to token."""
        self._goes_on |= goes_on
        self._ready_s = None

    def _ready_since(self, num_ready_rows: int, num_padded_rows: int) -> float:
        """Return since when a decode could begin, of so many rows now."""
        if self._ready_s is None:
            self._ready_s = self._joined_s = self._clock()
        self._num_ready_rows, self._num_padded_rows = num_ready_rows, max(num_ready_rows, num_padded_rows)
        return self._ready_s

    def _kept_waiting(self, now_s: float) -> bool:
        """Whether one that comes now has kept those who are here waiting for longer than its company saves."""
        if self._ready_s is None:
            return False
        return now_s - self._joined_s > self._worth_s(self._awaited(), self._here())

    def _here(self) -> _Here:
        here = [session for session in self._sessions.values() if session.answered_s is None]
        return_s = statistics.median(session.usual_return_s for session in here) if here else 0.0
        return _Here(len(here), sum(session.usual_tokens for session in here), return_s)

    def _worth_s(self, missing: list[_Session], here: _Here) -> float:
        """Return how long it is worth for those `here` to wait for those who are missing, at every decode.

        One decode takes the place of two, and missing rows that of padding. Fewer than half of all need no decode of
        their own, as they join the next one: instead of n tokens a round of C seconds there would be 2n - k in two
        rounds, which are shorter by what the rows of the k take, s: waiting for w seconds is better than that where
        w < (k C - n s) / (2n - k).
        """
        missing_rows = _num_rows(missing)
        together_s = self._costs.decode_s(max(self._num_padded_rows, self._num_ready_rows + missing_rows))
        worth_s = self._costs.usual_s(self._num_padded_rows) + self._costs.usual_s(missing_rows) - together_s
        least_s = min(_SPREAD_S, _SPREAD_SHARE * together_s)
        if len(missing) < here.num_sessions:
            num_tokens = sum(session.usual_tokens for session in missing)
            all_tokens = num_tokens + here.num_tokens
            rows_s = together_s - self._costs.decode_s(self._num_padded_rows)
            round_s = together_s + here.usual_return_s
            worth_s = min(worth_s, (num_tokens * round_s - all_tokens * rows_s) / (2 * all_tokens - num_tokens))
            least_s = max(least_s, _FAIR_SHARE * round_s)
        return max(worth_s, least_s)

    def _is_expected(self, session: _Session, least_s: float = 0.0) -> bool:
        if session.answered_s is None:
            return False
        if session.returns_s:
            expected_s = max(_RETURNS * session.longest_return_s, _LEAST_EXPECTED_S)
        else:
            expected_s = max(_RETURNS * max(self._first_returns_s, default=0.0), least_s)
        return self._clock() < session.answered_s + expected_s

    def _awaited(self) -> list[_Session]:
        """Return those who are worth waiting for: where half of a company that is parted is here, the rest of it.

        A group that is smaller waits for anybody, so that there are no more than two.
        """
        awaited = [session for session in self._away() if not session.is_late]
        if not awaited or self.most_together() is None:
            return awaited
        groups = [session.group for session in self._sessions.values() if session.answered_s is None]
        if len(groups) < self.num_present // 2:
            return awaited
        return [session for session in awaited if session.group in groups]

    def _away(self) -> list[_Session]:
        return [session for session in self._sessions.values() if session.answered_s is not None]

    def _end_round(self, now_s: float) -> None:
        num_present = self.num_present
        if self._begun_s is not None and num_present > 1:
            # One trial at a time, or what comes of one would be taken for what comes of the other.
            for each, other in ((self._comparison, self._parting), (self._parting, self._comparison)):
                if not other.is_trying:
                    each.count(self._num_tokens, now_s - self._begun_s, num_present)
        self._begun_s, self._num_tokens = now_s, 0.0


def _num_rows(sessions: list[_Session]) -> int:
    return sum(session.num_rows for session in sessions)
