"""Until when a decode waits, by a clock of the test's own."""

import math
from dataclasses import dataclass, field

import pytest

from services.engine.runtime.costs import DecodeCosts
from services.engine.scheduling.comparison import Comparison
from services.engine.scheduling.gathering import Gathering, _Session
from tests.unit.engine.costs import LinearCosts

# A decode costs 80 ms by itself and 5 ms a row: one in the place of two saves 80 ms.
COSTS = LinearCosts(16.0, row_s=5e-3)
ROWS = 4
SAVING_S = 0.08


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

    def __post_init__(self) -> None:
        self.gathering = Gathering(self.costs, lambda: self.now_s)
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

    A session of one row has no draft. A draft takes so long in all, and a session that is far that much longer.
    """

    rows: dict[str, int]
    draft_s: float
    far_s: dict[str, float] = field(default_factory=dict)
    costs: DecodeCosts = field(default_factory=lambda: COSTS)
    now_s: float = 0.0
    decodes: list[set[str]] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gathering = Gathering(self.costs, lambda: self.now_s)
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
            self._pass(self.now_s + duration_s)
            self.costs.observe(num_rows, duration_s)
            for session_id in sorted(ready):
                self.gathering.answered(session_id, self.rows[session_id], self.rows[session_id])
                there = self.to_draft_s if self.rows[session_id] > 1 else self.to_target_s
                there[session_id] = self.now_s + 0.001 + self.far_s.get(session_id, 0.0)

    def _draft(self) -> bool:
        """Draft for all who are there; return whether anybody is. The target may have to wait."""
        drafted = [session_id for session_id, there_s in self.to_draft_s.items() if there_s <= self.now_s]
        if not drafted:
            return False
        for session_id in drafted:
            del self.to_draft_s[session_id]
            self.to_target_s[session_id] = self.now_s + self.draft_s + 0.001 + self.far_s.get(session_id, 0.0)
        self._pass(self.now_s + self.draft_s)
        if self._until_s() <= self.now_s:
            self.gathering.held_up()
        return True

    def _until_s(self) -> float:
        return self.gathering.until_s(sum(self.rows[each] for each in self.here)) if self.here else math.inf

    def _pass(self, end_s: float) -> None:
        while self.to_target_s and min(self.to_target_s.values()) <= end_s:
            session_id = min(self.to_target_s, key=self.to_target_s.__getitem__)
            self.now_s = max(self.now_s, self.to_target_s.pop(session_id))
            self.here.add(session_id)
            self.gathering.arrived(session_id)
            self._until_s()
        self.now_s = max(self.now_s, end_s)


def sessions(number: int, draft_s: float) -> dict[str, float]:
    return {str(index): draft_s for index in range(number)}


def test_sessions_that_return_together_are_decoded_together() -> None:
    company = Company(sessions(4, 0.03))
    company.run(50)
    assert all(len(decode) == 4 for decode in company.decodes)


@pytest.mark.parametrize("contention", [1.0, 2.0, 10.0])
@pytest.mark.parametrize("draft_s", [0.001, 0.03, 0.06])
@pytest.mark.parametrize(("number", "num_first"), [(4, 1), (8, 4), (8, 1), (16, 5)])
def test_groups_that_take_turns_find_each_other(number: int, num_first: int, draft_s: float, contention: float) -> None:
    """One group is here when the other one has just been answered, and nobody was in time lately."""
    company = Company(sessions(number, draft_s), contention)
    first = {str(index) for index in range(num_first)}
    for session_id in company.here - first:
        company.answer(session_id)
    company.here = first
    for session_id in company.drafts_s:
        company.gathering._sessions.setdefault(session_id, _Session()).doubt()
    company.run(40)
    assert all(len(decode) == number for decode in company.decodes[20:])


@pytest.mark.parametrize(("number", "num_first"), [(4, 1), (8, 4), (8, 1), (16, 5)])
def test_groups_find_each_other_on_shared_cores_where_rows_cost_as_much_as_decodes(number: int, num_first: int) -> None:
    """One decode saves 3.3 ms, and drafts take 13; but drafts and decodes beside each other take 2.5 times as long."""
    true_costs = LinearCosts(6.0, row_s=0.55e-3)
    company = Company(sessions(number, 0.013), 2.5, 2.5, DecodeCosts(), true_costs)
    company.here = {str(index) for index in range(num_first)}
    for index in range(num_first, number):
        company.answer(str(index))
    company.run(100)
    assert all(len(decode) == number for decode in company.decodes[60:])


@pytest.mark.parametrize("contention", [1.0, 3.0])
@pytest.mark.parametrize("far_s", [0.14, 0.18, 0.4])
def test_a_session_far_away_costs_the_others_little(far_s: float, contention: float) -> None:
    company = Company(sessions(3, 0.03), contention)
    company.run(500)
    alone_s = company.now_s
    company = Company(sessions(3, 0.03) | {"far": far_s}, contention)
    company.run(500)
    num_with_far = sum("far" in decode for decode in company.decodes)
    assert num_with_far > 50
    num_others = sum(len(decode - {"far"}) for decode in company.decodes)
    # But for its own rows, which would cost as much if it were near.
    others_s = company.now_s - num_with_far * ROWS * 5e-3
    assert others_s / num_others < 1.05 * alone_s / 1500


@pytest.mark.parametrize("draft_s", [0.005, 0.02, 0.06])
def test_a_plain_session_joins_those_whose_drafts_have_the_cores(draft_s: float) -> None:
    """Its decode could not begin before they are back, so that waiting for them costs nothing."""
    company = SharedCores(dict.fromkeys("0123", ROWS) | {"plain": 1}, draft_s, costs=LinearCosts(6.0, row_s=0.55e-3))
    company.run(100)
    assert all(len(decode) == 5 for decode in company.decodes)


@pytest.mark.parametrize(("number", "num_first"), [(4, 1), (8, 4), (8, 1), (16, 5)])
def test_groups_on_shared_cores_meet_at_once(number: int, num_first: int) -> None:
    company = SharedCores({str(index): ROWS for index in range(number)}, 0.03, costs=LinearCosts(6.0, row_s=0.55e-3))
    company.here = {str(index) for index in range(num_first)}
    for session_id in sorted(company.rows.keys() - company.here):
        company.gathering.answered(session_id, ROWS, ROWS)
        company.to_draft_s[session_id] = 0.001
    company.run(20)
    assert all(len(decode) == number for decode in company.decodes)


def test_drafts_that_never_leave_the_cores_do_not_keep_a_decode_for_ever() -> None:
    """One that was answered just now is expected for a quarter of a second."""
    now_s = 0.0
    gathering = Gathering(COSTS, lambda: now_s)
    for session_id in "ab":
        gathering.answered(session_id, ROWS, ROWS)
    gathering.arrived("a")
    while now_s < 10.0 and gathering.until_s(ROWS) > now_s:
        now_s += 0.01
        gathering.held_up()
    assert now_s == pytest.approx(0.25 + SAVING_S, abs=0.02)


def test_where_joining_saves_nothing_nobody_waits_for_long() -> None:
    company = Company(sessions(2, 0.03))
    company.gathering = Gathering(LinearCosts(0.0, row_s=5e-3), lambda: company.now_s)
    company.here = {"0"}
    company.answer("1")
    company.left_s["1"] = 0.035
    company.run(1000)
    assert sum(len(decode) == 1 for decode in company.decodes[500:]) > 450


def test_nobody_waits_for_those_who_left() -> None:
    now_s = 1.0
    gathering = Gathering(COSTS, lambda: now_s)
    for session_id in "ab":
        gathering.answered(session_id, ROWS, ROWS)
    gathering.arrived("a")
    assert gathering.until_s(ROWS) == pytest.approx(now_s + SAVING_S)
    gathering.left("b")
    assert gathering.until_s(ROWS) == now_s


def test_a_wait_begins_when_something_is_ready_and_does_not_grow() -> None:
    company = Company(sessions(3, 1.0))
    for session_id in "012":
        company.answer(session_id)
    company.now_s = 1.0
    company.arrive("0")
    until_s = company.gathering.until_s(ROWS)
    company.now_s = 1.05
    company.arrive("1")
    assert company.gathering.until_s(2 * ROWS) == pytest.approx(until_s) == pytest.approx(1.0 + SAVING_S)


def test_a_session_is_expected_for_twice_its_usual_time() -> None:
    company = Company({"a": 1.0})
    company.answer("a")
    assert not company.gathering.is_expected("a"), "nothing is known of it, nor of others"
    company.now_s = 1.0
    company.arrive("a")
    assert not company.gathering.is_expected("a"), "it is here"
    company.answer("a")
    company.now_s = 2.9
    assert company.gathering.is_expected("a") and company.gathering.is_between_cycles
    company.now_s = 3.1
    assert not company.gathering.is_expected("a") and not company.gathering.is_between_cycles
    assert not company.gathering.is_expected("b")


def test_where_nobody_ever_comes_back_nobody_new_is_expected() -> None:
    company = Company({"a": math.inf, "b": math.inf})
    company.answer("a")
    company.gathering.evicted("a")
    company.answer("b")
    assert not company.gathering.is_expected("b")


def test_one_that_comes_back_without_its_slot_speaks_for_those_who_are_new() -> None:
    company = Company({"a": math.inf, "b": math.inf})
    company.answer("a")
    company.gathering.evicted("a")
    company.now_s = 3.0
    company.arrive("a")
    company.answer("b")
    company.now_s = 8.9
    assert company.gathering.is_expected("b")


def rate(compared: Comparison, *, waiting: float, not_waiting: float, num_rounds: int) -> float:
    """Let rounds of 0.1 s follow each other, with so many tokens each; return the share of them that did not wait."""
    num_not_waiting = 0
    for _ in range(num_rounds):
        waits = compared.waits(4)
        num_not_waiting += not waits
        compared.count(waiting if waits else not_waiting, 0.1, 4)
    return num_not_waiting / num_rounds


def test_waiting_that_pays_goes_on_and_is_doubted_in_one_percent_of_the_time() -> None:
    compared = Comparison()
    share = rate(compared, waiting=10.0, not_waiting=7.0, num_rounds=20_000)
    assert 0.002 < share <= 0.01
    assert compared.waits(4)


def test_waiting_that_does_not_pay_ends() -> None:
    compared = Comparison()
    rate(compared, waiting=7.0, not_waiting=10.0, num_rounds=3_000)
    assert not compared.waits(4)
    assert rate(compared, waiting=7.0, not_waiting=10.0, num_rounds=20_000) >= 0.99
    assert compared.waits(16), "a larger company is another question"


def test_waiting_begins_again_when_it_pays_again() -> None:
    compared = Comparison()
    rate(compared, waiting=7.0, not_waiting=10.0, num_rounds=3_000)
    rate(compared, waiting=10.0, not_waiting=7.0, num_rounds=3_000)
    assert compared.waits(4)


def test_a_company_that_changes_is_not_compared_with_itself() -> None:
    compared = Comparison()
    for number in range(20_000):
        compared.count(10.0 if number % 2 else 1.0, 0.1, 4 + number % 2)
    assert compared.waits(4) and compared.waits(5)
