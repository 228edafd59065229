"""What decodes cost, from those that were seen."""

import pytest

from services.engine.runtime.decode_costs import DecodeCosts


def seen(times_s: dict[int, float]) -> DecodeCosts:
    costs = DecodeCosts()
    for num_rows, duration_s in times_s.items():
        costs.observe(num_rows, duration_s)
    return costs


@pytest.mark.parametrize(
    ("times_s", "num_rows", "expected_s"),
    [
        pytest.param({}, 4, 0.0, id="nothing is known"),
        pytest.param({4: 2.0}, 2, 1.0, id="one size is known: in proportion"),
        pytest.param({1: 1.0, 9: 3.0}, 5, 2.0, id="between two sizes: a line"),
        pytest.param({8: 8.0, 16: 10.0}, 1, 6.25, id="below the smallest: the same line"),
        pytest.param({8: 8.0, 16: 8.0}, 1, 8.0, id="which may be flat"),
        pytest.param({8: 8.0, 16: 16.5}, 4, 4.0, id="but not below its share of the smallest"),
        pytest.param({1: 1.0, 9: 3.0}, 13, 4.0, id="above the largest: the same line"),
        pytest.param({1: 1.0, 7: 8.0, 8: 8.0, 9: 9.0}, 17, 17.0, id="of sizes that are not near each other"),
        pytest.param({8: 2.0, 24: 6.5, 28: 7.0, 32: 7.4}, 64, 14.6, id="and not in proportion to noise"),
        pytest.param({1: 1.0, 4: 8.0}, 8, 16.0, id="but not above the largest in proportion"),
        pytest.param({1: 3.0, 4: 2.0}, 8, 2.0, id="nor below the largest"),
        pytest.param({40: 5.0}, 64, 8.0, id="large sizes are taken together by powers of two"),
    ],
)
def test_an_estimate(times_s: dict[int, float], num_rows: int, expected_s: float) -> None:
    assert seen(times_s).decode_s(num_rows) == pytest.approx(expected_s)


def test_the_least_of_recent_times_counts_and_old_ones_are_forgotten() -> None:
    costs = seen({1: 1.0})
    for _ in range(7):
        costs.observe(1, 5.0)
    assert costs.decode_s(1) == 1.0
    costs.observe(1, 4.0)
    assert costs.decode_s(1) == 4.0


def test_rows_within_a_time() -> None:
    costs = seen({1: 1.0, 32: 32.0})
    assert costs.rows_within(19.5, start_rows=64, most_rows=1024) == 19
    assert costs.rows_within(0.5, start_rows=64, most_rows=1024) == 8
    assert costs.rows_within(1e9, start_rows=64, most_rows=100) == 100


def test_until_costs_are_known_few_rows_go_and_little_is_copied() -> None:
    costs = DecodeCosts()
    assert costs.rows_within(1.0, start_rows=64, most_rows=1024) == 64
    assert costs.copy_in_rows == 16.0
    assert costs.decode_in_rows == 16.0


def test_a_first_slow_decode_is_not_kept_for_life() -> None:
    """A busy machine once made all prompts small, or all large, for as long as the process lived."""
    costs = seen({1: 1.0, 512: 0.1})
    for _ in range(8):
        costs.observe(1, 0.01)
        costs.observe(512, 5.12)
    assert costs.rows_within(0.04, start_rows=64, most_rows=1024) <= 8


def test_what_a_decode_costs_by_itself() -> None:
    assert seen({1: 11.0, 9: 19.0, 512: 9000.0}).decode_in_rows == pytest.approx(10.0)


def test_a_copy_is_told_from_the_decode_after_it() -> None:
    costs = seen({1: 1.0, 100: 100.0})
    costs.observe(1, 41.0, after_copy=True)
    assert costs.decode_s(1) == 1.0
    assert costs.copy_in_rows == pytest.approx(40.0)


def test_one_dear_copy_does_not_end_copying() -> None:
    costs = seen({1: 1.0, 100: 100.0})
    costs.observe(1, 1e6, after_copy=True)
    assert costs.copy_in_rows == 256.0


def test_what_a_decode_usually_takes_is_not_the_least() -> None:
    costs = seen({1: 1.0})
    for duration_s in (4.0, 3.0):
        costs.observe(1, duration_s)
    assert costs.usual_s(1) == 3.0
    assert costs.decode_s(1) == 1.0


def test_times_of_a_company_are_those_of_the_present_load() -> None:
    costs = DecodeCosts()
    for _ in range(8):
        for num_rows, duration_s in ((4, 0.10), (8, 0.12)):
            costs.observe(num_rows, duration_s, num_sessions=4)
    for _ in range(100):
        costs.observe(4, 0.20, num_sessions=4)
    assert costs.company_s(4, 4) == pytest.approx(0.20, rel=0.05)
    assert 0.13 < costs.company_s(8, 4) < 0.18, "not seen since the machine became busy"


def test_a_few_disturbed_decodes_make_no_others_cheap_that_come_with_them() -> None:
    """16 sessions took 0.7 s for a row each as they began, and 1.1 for three; plainly they soon took 0.43 again.

    Three rows were taken for 0.67 then, and 10 rows for 1.4 where they took 3.0.
    """
    costs = DecodeCosts()
    for _ in range(16):
        costs.observe(16, 0.5, num_sessions=16)
    for plain_s in (0.69, 0.66, 0.76, 0.72):
        costs.observe(16, plain_s, num_sessions=16)
    for _ in range(4):
        costs.observe(48, 1.08, num_sessions=16)
    for _ in range(40):
        costs.observe(16, 0.43, num_sessions=16)
    assert costs.company_s(48, 16) == pytest.approx(1.05, rel=0.12)


def test_a_first_time_that_was_long_keeps_no_size_from_being_tried() -> None:
    costs = DecodeCosts()
    for _ in range(8):
        for num_rows, duration_s in ((8, 0.12), (16, 0.16)):
            costs.observe(num_rows, duration_s, num_sessions=8)
    costs.observe(32, 1.0, num_sessions=8)
    assert costs.least_s(32, 8) == pytest.approx(0.24), "as a line through those that are known"
    for _ in range(2):
        costs.observe(32, 1.0, num_sessions=8)
    assert costs.least_s(32, 8) == pytest.approx(1.0), "it is known by now"
    for _ in range(17):
        costs.observe(8, 0.12, num_sessions=8)
        costs.observe(16, 0.16, num_sessions=8)
    assert costs.least_s(32, 8) == pytest.approx(0.24), "that was some time ago"


def test_a_size_that_was_dear_some_time_ago_is_tried_again_where_others_say_that_it_has_become_cheaper() -> None:
    """Four rows of eight sessions were taken for 0.76 s, as in a busy minute, where they took 0.65, and three 0.53."""
    costs = DecodeCosts()
    for _ in range(8):
        for num_rows, duration_s in ((8, 0.25), (24, 0.6), (32, 0.76)):
            costs.observe(num_rows, duration_s, num_sessions=8)
    for _ in range(20):
        for num_rows, duration_s in ((8, 0.24), (24, 0.52)):
            costs.observe(num_rows, duration_s, num_sessions=8)
    assert costs.least_s(32, 8) == pytest.approx(0.52 + 0.14, rel=0.04)
    for _ in range(3):
        costs.observe(32, 0.76, num_sessions=8)
    assert costs.least_s(32, 8) == pytest.approx(0.76, rel=0.04), "it was tried"


def test_a_company_that_had_one_size_takes_rows_for_what_they_cost_others() -> None:
    costs = DecodeCosts()
    for _ in range(4):
        for num_rows, duration_s in ((1, 0.06), (8, 0.08), (32, 0.14)):
            costs.observe(num_rows, duration_s)
        costs.observe(8, 0.12, num_sessions=8)
    costs.observe(9, 0.2, num_sessions=8)
    assert costs.least_s(32, 8) == pytest.approx(0.12 + 0.06)


def test_a_line_through_sizes_near_each_other_says_little_of_many_more_rows() -> None:
    """16 sessions of whom some were ahead: 14 rows took 0.55 s as 15 did, so 120 rows were taken for 0.55 s too."""
    costs = DecodeCosts()
    for _ in range(4):
        for num_rows, duration_s in ((1, 0.04), (16, 0.4), (64, 1.5)):
            costs.observe(num_rows, duration_s)
        costs.observe(14, 0.55, num_sessions=14)
        costs.observe(15, 0.546, num_sessions=15)
    assert costs.least_s(30, 15) == pytest.approx(0.72, rel=0.05), "what rows from 15 on have cost others"
    costs.observe(60, 1.4, num_sessions=15)
    assert costs.least_s(60, 15) == pytest.approx(1.4), "the first of its size"
    assert costs.least_s(120, 15) > 2.5


def test_what_a_decode_of_a_company_takes_is_the_median_of_its_size() -> None:
    """The least of 8 decodes of 32 rows was 685 ms where their mean was 803; of those of 8 rows 321 and 340."""
    costs = DecodeCosts()
    for disturbed_s in (0.0, 0.3, 0.0, 0.3, 0.3, 0.0, 0.3, 0.3):
        costs.observe(8, 0.3, num_sessions=8)
        costs.observe(32, 0.7 + disturbed_s, num_sessions=8)
    ratio = costs.least_s(32, 8) / costs.least_s(8, 8)
    assert ratio == pytest.approx(1.0 / 0.3, rel=0.05)
    assert costs.decode_s(32) == pytest.approx(0.7)


def test_one_disturbed_decode_is_no_load() -> None:
    costs = DecodeCosts()
    for _ in range(8):
        for num_rows, duration_s in ((4, 0.10), (8, 0.12)):
            costs.observe(num_rows, duration_s, num_sessions=4)
    costs.observe(4, 100.0, num_sessions=4)
    assert costs.company_s(8, 4) == pytest.approx(0.12, rel=0.1)


def test_a_size_that_is_new_says_nothing_of_the_load() -> None:
    costs = DecodeCosts()
    for _ in range(8):
        costs.observe(4, 0.10, num_sessions=4)
    for _ in range(3):
        costs.observe(8, 0.50, num_sessions=4)
    assert costs.company_s(4, 4) == pytest.approx(0.10)
    assert costs.company_s(8, 4) == pytest.approx(0.50)


def test_a_line_says_little_of_fewer_rows_than_any_that_is_known() -> None:
    """Two sessions that decoded plainly in 132 ms were taken for 66, and found every draft dear."""
    costs = DecodeCosts()
    for _ in range(3):
        costs.observe(6, 0.199, num_sessions=3)
        costs.observe(10, 0.337, num_sessions=2)
    costs.observe(2, 0.132, num_sessions=2)
    assert costs.least_s(2, 2) == pytest.approx(0.132)
    costs.observe(3, 0.4, num_sessions=3)
    assert costs.least_s(3, 3) == pytest.approx(0.199)


def test_what_a_size_takes_that_was_not_seen_for_long_the_next_three_tell() -> None:
    """32 rows were taken for 1.2 s, as in a busy minute, where they had come to take 0.84."""
    costs = DecodeCosts()
    for _ in range(8):
        costs.observe(16, 0.5, num_sessions=16)
        costs.observe(32, 1.2, num_sessions=16)
    for _ in range(32):
        costs.observe(16, 0.5, num_sessions=16)
    costs.observe(32, 0.8, num_sessions=16)
    assert costs.least_s(32, 16) == pytest.approx(1.2), "one may be an accident"
    costs.observe(32, 0.8, num_sessions=16)
    costs.observe(32, 0.8, num_sessions=16)
    assert costs.least_s(32, 16) == pytest.approx(0.8, rel=0.1)
