"""Until when a decode waits, by a clock of the test's own."""

import math
from dataclasses import dataclass, field

import pytest

from services.engine.comparison import Comparison
from services.engine.gathering import Gathering
from tests.unit.engine.costs import LinearCosts

# A decode costs 80 ms by itself and 5 ms a row, so one in the place of two saves 80 ms.
COSTS = LinearCosts(16.0, row_s=5e-3)
SAVING_S = 0.08
ROWS = 4


@dataclass
class Company:
    """Sessions around a gathering: each is back so many seconds after it was answered."""

    returns_s: dict[str, float]
    now_s: float = 0.0
    decodes: list[set[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gathering = Gathering(COSTS, lambda: self.now_s)
        self.back_s = dict.fromkeys(self.returns_s, 0.0)

    def run(self, num_decodes: int) -> None:
        """Let decode follow decode."""
        for _ in range(num_decodes):
            self._decode()

    def answer(self, session_id: str) -> None:
        self.gathering.answered(session_id, ROWS, ROWS)
        self.back_s[session_id] = self.now_s + self.returns_s[session_id]

    def arrive(self, session_id: str) -> None:
        self.gathering.arrived(session_id)
        self.back_s[session_id] = -math.inf

    def _decode(self) -> None:
        ready = self._arrive_by(max(self.now_s, min(self.back_s.values())))
        while (until_s := self.gathering.until_s(ROWS * len(ready))) > self.now_s:
            ready |= self._arrive_by(min(until_s, self._next_s()))
        self.gathering.begin(ROWS * len(ready))
        self.decodes.append(ready)
        self._arrive_during(COSTS.decode_s(ROWS * len(ready)))
        for session_id in sorted(ready):
            self.answer(session_id)
        self.here = {each for each in self.back_s if self.back_s[each] == -math.inf} - ready

    here: set[str] = field(default_factory=set)

    def _next_s(self) -> float:
        return min((back_s for back_s in self.back_s.values() if back_s > -math.inf), default=math.inf)

    def _arrive_by(self, now_s: float) -> set[str]:
        ready = set(self.here)
        self.here = set()
        while self._next_s() <= now_s:
            session_id = min((s for s in self.back_s if self.back_s[s] > -math.inf), key=self.back_s.__getitem__)
            self.now_s = max(self.now_s, self.back_s[session_id])
            self.arrive(session_id)
            ready.add(session_id)
        self.now_s = max(self.now_s, now_s)
        return ready

    def _arrive_during(self, duration_s: float) -> None:
        self.here |= self._arrive_by(self.now_s + duration_s)


def in_groups(returns_s: dict[str, float]) -> Company:
    """Sessions of which one is out of step: the others were answered while it was being decoded."""
    company = Company(returns_s)
    first, *others = returns_s
    for session_id in returns_s:
        company.answer(session_id)
    for session_id in others:
        company.back_s[session_id] += 0.05
    company.back_s[first] = 0.0
    company.gathering._sessions[first].is_late = True
    return company


def test_sessions_that_return_together_are_decoded_together() -> None:
    company = Company(dict.fromkeys("abcd", 0.03))
    company.run(50)
    assert all(len(decode) == 4 for decode in company.decodes[1:])


@pytest.mark.parametrize("return_s", [0.001, 0.03, 0.06])
def test_groups_that_take_turns_find_each_other(return_s: float) -> None:
    company = in_groups(dict.fromkeys("abcd", return_s))
    company.run(40)
    assert all(len(decode) == 4 for decode in company.decodes[20:])


def test_a_session_far_away_costs_the_others_little() -> None:
    company = Company(dict.fromkeys("abc", 0.03) | {"far": 0.18})
    company.run(500)
    num_others = sum(len(decode - {"far"}) for decode in company.decodes)
    assert num_others / len(company.decodes) > 2.9
    # The three come back and are decoded, every other time with the rows of the fourth.
    assert company.now_s < 1.03 * (0.03 + (COSTS.decode_s(3 * ROWS) + COSTS.decode_s(4 * ROWS)) / 2) * 500
    assert any("far" in decode for decode in company.decodes[-3:])


def test_nobody_waits_where_joining_saves_nothing() -> None:
    gathering = Gathering(LinearCosts(0.0), lambda: 1.0)
    gathering.answered("a", ROWS, ROWS)
    assert gathering.until_s(ROWS) == 1.0


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
    company = Company(dict.fromkeys("abc", 1.0))
    for session_id in "abc":
        company.answer(session_id)
    company.now_s = 1.0
    company.arrive("a")
    until_s = company.gathering.until_s(ROWS)
    company.now_s = 1.05
    company.arrive("b")
    assert company.gathering.until_s(2 * ROWS) == pytest.approx(until_s) == pytest.approx(1.0 + SAVING_S)


def test_a_session_is_expected_for_twice_its_usual_time() -> None:
    company = Company({"a": 1.0})
    company.answer("a")
    company.now_s = 0.4
    assert company.gathering.is_expected("a"), "nothing is known of it, nor of others"
    company.now_s = 1.0
    assert not company.gathering.is_expected("a")
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
