"""One number of draft tokens for all who wait for each other."""

from orchestrator.drafting.common_length import CommonLength

COSTS = [0.0, 0.3, 0.6]


class Request:
    """Whose rounds are counted."""


def test_the_best_is_taken_at_first() -> None:
    assert CommonLength().choose([0.0, 0.01, 0.02], COSTS) == 2
    assert CommonLength().choose([0.0, -0.1, -0.2], COSTS) == 0


def test_another_number_has_to_bring_notably_more() -> None:
    length = CommonLength()
    length.choose([0.0, 0.2, 0.1], COSTS)
    assert length.choose([0.0, 0.2, 0.24], COSTS) == 1
    assert length.choose([0.0, 0.2, 0.4], COSTS) == 2
    assert length.choose([0.0, 0.2], COSTS[:2]) == 1, "no more is quoted for"


def test_plain_decoding_is_left_for_a_gain_and_taken_as_soon_as_there_is_none() -> None:
    length = CommonLength()
    length.choose([0.0, -0.1], COSTS)
    assert length.choose([0.0, 0.02], COSTS) == 0
    assert length.choose([0.0, 0.04], COSTS, begin_cost=0.02) == 0, "the draft has much to read first"
    assert length.choose([0.0, 0.04], COSTS) == 1
    assert length.choose([0.0, 0.001], COSTS) == 1
    assert length.choose([0.0, -0.001], COSTS) == 0


def test_a_trial_is_of_some_rounds_of_each_that_begins_while_the_one_that_began_it_has_some_left() -> None:
    length, trier, other, late = CommonLength(), Request(), Request(), Request()
    values = [0.0, -0.2, -0.1]
    assert (length.choose(values, COSTS), length.tried(trier, 2)) == (0, 0)
    length.begin_trial(trier, values)
    for num_left in (2, 1, 0):
        assert (length.choose(values, COSTS), length.tried(trier, 2), length.tried(other, 2)) == (0, 2, 2)
        assert length.tried(other, 1) == 1, "no more is quoted for"
        length.end_round(other)
        # It is answered with the trier, and chooses first: a fourth round would be its own.
        assert length.tried(other, 2) == (2 if num_left else 0)
        length.end_round(trier)
    assert [length.tried(each, 2) for each in (trier, other, late)] == [0, 0, 0]


def test_who_has_begun_a_trial_ends_it_though_others_have() -> None:
    length, trier, other, late = CommonLength(), Request(), Request(), Request()
    length.choose([0.0, -0.1], COSTS)
    length.begin_trial(trier, [0.0, -0.1])
    length.end_round(other)
    del trier
    assert [length.tried(each, 1) for each in (other, late)] == [1, 0]


def test_a_trial_that_has_shown_a_gain_is_over() -> None:
    length, trier = CommonLength(), Request()
    length.choose([0.0, -0.1], COSTS)
    length.begin_trial(trier, [0.0, -0.1])
    length.end_round(trier)
    assert length.choose([0.0, 0.2], COSTS) == 1
    assert length.choose([0.0, -0.2], COSTS) == 0
    assert not length.tried(trier, 1)


def test_what_a_trial_costs() -> None:
    length = CommonLength()
    for worth, lost in ((-0.5, 1.5), (0.02, 0.09)):
        length.choose([0.0, worth], COSTS)
        assert abs(length.trial_cost - lost) < 1e-9


def test_the_first_of_a_round_is_who_chooses_after_a_while_in_which_nobody_did() -> None:
    now_s = 10.0
    length = CommonLength(lambda: now_s)
    firsts = []
    for passed_s in (0.0, 0.001, 0.001, 0.02, 0.001):
        now_s += passed_s
        firsts.append(length.begins_round(0.02))
    assert firsts == [True, False, False, True, False]
