"""Sessions whose drafts and decodes take so long, by a clock of the test's own."""

import math
from dataclasses import dataclass, field

from services.engine.runtime.decode_costs import DecodeCosts
from services.engine.scheduling.gathering import Gathering
from tests.unit.engine.linear_costs import LinearCosts

# A decode costs 80 ms by itself and 5 ms a row: one in the place of two saves 80 ms.
COSTS = LinearCosts(16.0, row_s=5e-3)
ROWS = 4


@dataclass
class Company:
    """Sessions whose drafts take so many seconds, and `contention` times that while something is decoded.

    Decodes take `slowness` times as long where drafts run beside them.
    """

    drafts_s: dict[str, float]
    contention: float = 1.0
    slowness: float = 1.0
    costs: DecodeCosts = field(default_factory=lambda: COSTS)
    true_costs: DecodeCosts = field(default_factory=lambda: COSTS)
    now_s: float = 0.0
    decodes: list[set[str]] = field(default_factory=list)
    parts: bool = False

    def __post_init__(self) -> None:
        self.gathering = Gathering(self.costs, lambda: self.now_s, parts=self.parts)
        # What is left of each session's draft, and who is here.
        self.left_s: dict[str, float] = {}
        self.here = set(self.drafts_s)

    def run(self, num_decodes: int) -> None:
        """Let decode follow decode."""
        for _ in range(num_decodes):
            while not self.here or self._until_s() > self.now_s:
                next_s = min(self.left_s.values(), default=math.inf)
                self._pass(next_s if not self.here else min(next_s, self._until_s() - self.now_s))
            ready, self.here = self.here, set()
            self.gathering.begin(ROWS * len(ready))
            self.decodes.append(ready)
            duration_s = self.true_costs.decode_s(ROWS * len(ready)) * (self.slowness if self.left_s else 1.0)
            self._pass(duration_s, self.contention)
            self.costs.observe(ROWS * len(ready), duration_s)
            for session_id in sorted(ready):
                self.answer(session_id)

    def answer(self, session_id: str) -> None:
        self.gathering.answered(session_id, ROWS, ROWS)
        self.left_s[session_id] = self.drafts_s[session_id]

    def arrive(self, session_id: str) -> None:
        del self.left_s[session_id]
        self.here.add(session_id)
        self.gathering.arrived(session_id)

    def _until_s(self) -> float:
        return self.gathering.until_s(ROWS * len(self.here))

    def _pass(self, duration_s: float, slowness: float = 1.0) -> None:
        end_s = self.now_s + duration_s
        while self.left_s and self.now_s + min(self.left_s.values()) * slowness <= end_s + 1e-9:
            session_id = min(self.left_s, key=self.left_s.__getitem__)
            self._draft(self.left_s[session_id] * slowness, slowness)
            self.arrive(session_id)
        self._draft(end_s - self.now_s, slowness)
        self.now_s = end_s

    def _draft(self, duration_s: float, slowness: float) -> None:
        self.now_s += duration_s
        for session_id in self.left_s:
            self.left_s[session_id] -= duration_s / slowness


@dataclass
class SharedCores:
    """Sessions of so many rows, whose drafts, all in one, keep the target from decoding. Ways take a millisecond.

    A session of one row has no draft. A draft takes so long in all and for each session, and that of a session that is
    far that much longer.
    """

    rows: dict[str, int]
    draft_s: float
    session_draft_s: float = 0.0
    far_s: dict[str, float] = field(default_factory=dict)
    costs: DecodeCosts = field(default_factory=lambda: COSTS)
    now_s: float = 0.0
    decodes: list[set[str]] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gathering = Gathering(self.costs, lambda: self.now_s, parts=False)
        self.here = set(self.rows)
        # When who is on the way to the draft or the target is there.
        self.to_draft_s: dict[str, float] = {}
        self.to_target_s: dict[str, float] = {}

    def run(self, num_decodes: int) -> None:
        """Let decode follow decode."""
        for _ in range(num_decodes):
            began_s = self.now_s
            while self._draft() or self._until_s() > self.now_s:
                self._pass(min([self._until_s(), *self.to_draft_s.values(), *self.to_target_s.values()]))
            ready, self.here = self.here, set()
            self.waits_s.append(self.now_s - began_s)
            num_rows = sum(self.rows[session_id] for session_id in ready)
            self.gathering.begin(num_rows)
            self.decodes.append(ready)
            duration_s = self.costs.decode_s(num_rows)
            self.now_s += duration_s
            self.costs.observe(num_rows, duration_s)
            for session_id in sorted(ready):
                self.gathering.answered(session_id, self.rows[session_id], self.rows[session_id])
                there = self.to_draft_s if self.rows[session_id] > 1 else self.to_target_s
                there[session_id] = self.now_s + 0.001 + self.far_s.get(session_id, 0.0)
            # Who came during the decode is noticed now.
            self._pass(self.now_s)

    def _draft(self) -> bool:
        """Draft for all who are there; return whether anybody is. The target may have to wait."""
        drafted = [session_id for session_id, there_s in self.to_draft_s.items() if there_s <= self.now_s]
        if not drafted:
            return False
        drafted_s = self.now_s + self.draft_s + len(drafted) * self.session_draft_s
        for session_id in drafted:
            del self.to_draft_s[session_id]
            self.to_target_s[session_id] = drafted_s + 0.001 + self.far_s.get(session_id, 0.0)
        self._pass(drafted_s)
        if self._until_s() <= self.now_s:
            self.gathering.held_up()
        return True

    def _until_s(self) -> float:
        return self.gathering.until_s(sum(self.rows[each] for each in self.here)) if self.here else math.inf

    def _pass(self, end_s: float) -> None:
        while self.to_target_s and min(self.to_target_s.values()) <= end_s:
            session_id = min(self.to_target_s, key=self.to_target_s.__getitem__)
            asked_s = self.to_target_s.pop(session_id)
            self.now_s = max(self.now_s, asked_s)
            self.here.add(session_id)
            self.gathering.arrived(session_id, asked_s)
            self._until_s()
        self.now_s = max(self.now_s, end_s)


def sessions(number: int, draft_s: float) -> dict[str, float]:
    return {str(index): draft_s for index in range(number)}
