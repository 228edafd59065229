"""Until when a decode waits, by a clock of the test's own."""

import math

import pytest

from services.engine.runtime.decode_costs import DecodeCosts
from services.engine.scheduling.gathering import Gathering, _Session
from tests.unit.engine.linear_costs import LinearCosts
from tests.unit.engine.scheduling.companies import COSTS, ROWS, Company, SharedCores, sessions

SAVING_S = 0.08


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


@pytest.mark.parametrize(("number", "far_s"), [(8, 0.02), (8, 0.05), (8, 0.075), (8, 0.15), (16, 0.075), (16, 0.15)])
def test_a_session_far_away_joins_a_later_decode_of_many(number: int, far_s: float) -> None:
    """They waited for it at every decode, as two take longer than one: 0.90 to 0.95 of what they had without it."""

    def rates(far_s: dict[str, float]) -> tuple[float, float]:
        """Return the decodes in a second of one of the others, and of the one that may be far."""
        rows = {str(index): ROWS for index in range(number)}
        company = SharedCores(rows, 0.03, 0.09 / number, far_s, costs=LinearCosts(6.0, row_s=0.021))
        company.run(200)
        other, one = (sum(name in decode for decode in company.decodes) / company.now_s for name in ("1", "0"))
        return other, one

    (other_near, near), (other, far) = rates({}), rates({"0": far_s})
    assert other > 0.95 * other_near
    assert far > near / 3


def test_one_that_is_back_within_a_twentieth_of_a_round_is_waited_for_by_many() -> None:
    """Where rows cost as much as they bring, all would go on without it, and it would lose a round for a few ms."""
    gathering = Gathering(LinearCosts(6.0, row_s=0.021), lambda: 0.0)
    for index in range(8):
        gathering.answered(str(index), 1, 1)
    for index in range(7):
        gathering.arrived(str(index))
    assert gathering.until_s(7) == pytest.approx(0.05 * 14 * 0.021)


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


def test_who_may_draft_shares_the_price_of_rows_with_those_who_do() -> None:
    """Four of 16 looked up drafts, so a row was quoted at four times its price, and nobody else began to draft."""
    gathering = Gathering(COSTS, lambda: 0.0)
    gathering.answered("drafts", ROWS, ROWS)
    for index in range(3):
        gathering.answered(f"may draft {index}", 1, 1, may_draft=True)
    gathering.answered("does not", 1, 1)
    for session_id in ("drafts", "may draft 0", "may draft 1", "may draft 2", "does not"):
        gathering.arrived(session_id)
    assert (gathering.num_drafting, gathering.num_present) == (4, 5)


def test_where_slots_between_those_who_are_here_are_padded_waiting_saves_a_decode_of_that_size() -> None:
    """Four of 16 sessions, in slots 0, 5, 13 and 14, took 1.06 s, like all of them, and had waited for 0.05."""
    gathering = Gathering(COSTS, lambda: 0.0)
    for index in range(4):
        gathering.answered(str(index), ROWS, ROWS)
    gathering.arrived("0")
    gathering.arrived("3")
    one_s = COSTS.decode_s(4 * ROWS)
    assert gathering.until_s(2 * ROWS, 4 * ROWS) == pytest.approx(COSTS.decode_s(2 * ROWS))
    assert gathering.until_s(2 * ROWS) == pytest.approx(2 * COSTS.decode_s(2 * ROWS) - one_s)


def test_one_that_comes_during_a_decode_is_in_time_by_when_it_asked() -> None:
    now_s = 0.0
    gathering = Gathering(COSTS, lambda: now_s)
    for session_id in "ab":
        gathering.answered(session_id, ROWS, ROWS)
    gathering.arrived("a")
    gathering.until_s(ROWS)
    now_s = 2 * SAVING_S
    gathering.begin(ROWS)
    gathering.answered("a", ROWS, ROWS)
    # It came when the wait for it would still have been worth it, though nobody looked.
    now_s += 1.0
    gathering.arrived("b", asked_s=SAVING_S / 2)
    gathering.answered("b", ROWS, ROWS)
    gathering.arrived("a")
    assert gathering.until_s(ROWS) > now_s, "it is waited for again"


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


def test_one_thing_is_tried_at_a_time() -> None:
    company = Company(sessions(4, 0.03), parts=True)
    tried = set()
    for _ in range(3000):
        company.run(1)
        tried.add((company.gathering._comparison.is_trying, company.gathering._parting.is_trying))
    assert tried == {(False, False), (True, False), (False, True)}


def test_who_has_gone_has_no_part_in_whether_a_company_parts() -> None:
    """Two that decode and draft for as long as each other, beside many slots of those who were here before."""
    company = Company(sessions(2, 0.1), parts=True)
    for index in range(6):
        company.gathering.answered(f"gone {index}", 1, 1)
    company.now_s += 10
    company.run(5)
    alone = Company(sessions(2, 0.1), parts=True)
    alone.run(5)
    assert company.gathering.most_together() == alone.gathering.most_together() == 1
