"""Times between measured ones, and beyond them."""

from dataclasses import replace

import pytest

from orchestrator.costs import ModelCosts, Point


def costs(*points: tuple[int, int, int, float], flash_attention: bool | None = None) -> ModelCosts:
    return ModelCosts("any", tuple(Point(*point, flash_attention) for point in points))


ROWS = costs((1, 1, 0, 10.0), (1, 2, 0, 30.0), (1, 4, 0, 20.0), (1, 8, 0, 40.0))


@pytest.mark.parametrize(
    ("num_rows", "ms"),
    [(1, 10.0), (2, 30.0), (3, 25.0), (4, 20.0), (6, 30.0), (8, 40.0), (10, 50.0)],
)
def test_rows_lie_on_lines_and_a_dip_that_was_measured_stays(num_rows: int, ms: float) -> None:
    assert ROWS.decode_ms(1, num_rows) == pytest.approx(ms)


def test_beyond_the_last_row_a_line_goes_on_but_never_falls() -> None:
    assert costs((1, 1, 0, 10.0), (1, 2, 0, 8.0)).decode_ms(1, 100) == 8.0


def test_sessions_are_compared_at_equal_rows_each() -> None:
    model = costs((1, 1, 0, 10.0), (1, 4, 0, 20.0), (5, 5, 0, 30.0), (5, 20, 0, 80.0))
    assert model.decode_ms(3, 3) == pytest.approx(20.0)
    assert model.decode_ms(3, 12) == pytest.approx(50.0)
    assert model.decode_ms(9, 9) == pytest.approx(50.0)
    # 2.5 rows each.
    assert model.decode_ms(2, 5) == pytest.approx(15.0 + (55.0 - 15.0) / 4)
    assert model.token_ms(3) == model.decode_ms(3, 3)


def test_where_one_number_of_sessions_was_measured_only_rows_count() -> None:
    assert ROWS.decode_ms(4, 4) == ROWS.decode_ms(1, 4) == 20.0
    assert costs((2, 2, 0, 10.0), (2, 8, 0, 40.0)).decode_ms(5, 5) == pytest.approx(25.0)


def test_contexts_lie_on_lines_and_below_the_shortest_nothing_gets_cheaper() -> None:
    model = costs((1, 1, 100, 10.0), (1, 1, 300, 20.0))
    assert [model.decode_ms(1, 1, context) for context in (0, 100, 200, 300, 500)] == [10.0, 10.0, 15.0, 20.0, 30.0]


def test_a_number_of_sessions_goes_on_by_its_own_contexts() -> None:
    model = costs((1, 1, 0, 10.0), (1, 1, 100, 11.0), (1, 1, 200, 12.0), (4, 4, 0, 20.0), (4, 4, 100, 30.0))
    assert model.decode_ms(4, 4, 200) == pytest.approx(40.0)


@pytest.mark.parametrize("numbers", [(0, 0, 0), (2, 1, 0), (1, 1, -1)])
def test_numbers_that_no_decode_has_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no decode has"):
        ROWS.decode_ms(*numbers)


def test_the_kind_of_attention_that_is_quicker_where_both_were_measured_counts() -> None:
    usual = costs((1, 1, 0, 10.0), (1, 8, 0, 20.0), (1, 16, 0, 1.0), flash_attention=False)
    flash = costs((1, 1, 0, 11.0), (1, 8, 0, 15.0), flash_attention=True)
    both = replace(usual, points=usual.points + flash.points)
    assert both.uses_flash_attention is True
    assert both.decode_ms(1, 8) == 15.0
    assert replace(both, flash_attention=False).decode_ms(1, 8) == 20.0


def test_kinds_without_a_point_in_common_are_not_compared() -> None:
    usual = costs((1, 1, 0, 10.0), (1, 8, 0, 20.0), flash_attention=False)
    flash = costs((8, 8, 0, 1.0), flash_attention=True)
    assert replace(usual, points=usual.points + flash.points).uses_flash_attention is False
