"""How many rows of each work go into a decode."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.plan import plan_rows

LONG = (100, 1)


@pytest.mark.parametrize(
    ("pending", "max_rows", "prefill_rows", "expected"),
    [
        pytest.param([], 8, 4, [], id="nothing to do"),
        pytest.param([(1, 1), (1, 1)], 8, 4, [1, 1], id="all that is ready goes together"),
        pytest.param([(3, 3), (1, 1), (6, 5)], 16, 4, [3, 1, 6], id="drafts of different lengths go together"),
        pytest.param([(5, 5), (5, 5)], 8, 4, [5, 0], id="what does not fit waits, the earlier goes first"),
        pytest.param([(5, 5), (5, 5), (2, 2)], 8, 4, [5, 0, 2], id="a small one slips in"),
        pytest.param([LONG], 8, 4, [8], id="a prompt alone takes the whole batch"),
        pytest.param([LONG, (1, 1)], 16, 4, [4, 1], id="a prompt beside others takes its share"),
        pytest.param([LONG, LONG, (1, 1)], 16, 4, [4, 0, 1], id="prompts beside others share one share"),
        pytest.param([LONG, (8, 8)], 8, 4, [0, 8], id="a prompt waits for short work"),
        pytest.param([(6, 2)], 6, 6, [6], id="a prompt that fits goes whole"),
        pytest.param([(6, 3)], 5, 5, [3], id="rows with logits are not parted"),
        pytest.param([(7, 3)], 5, 5, [4], id="rows without logits go ahead"),
        pytest.param([(9, 2), (9, 2)], 12, 4, [9, 3], id="two prompts share the batch"),
    ],
)
def test_named_cases(pending: list[tuple[int, int]], max_rows: int, prefill_rows: int, expected: list[int]) -> None:
    assert plan_rows(pending, max_rows, prefill_rows) == expected


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[tuple[int, int]], int, int]:
    """Works that can be done at all: none wants logits of more rows than a decode has."""
    max_rows = draw(st.integers(1, 24))
    prefill_rows = draw(st.integers(1, max_rows))
    outputs = draw(st.lists(st.integers(1, max_rows), max_size=8))
    pending = [(number + draw(st.integers(0, 40)), number) for number in outputs]
    return pending, max_rows, prefill_rows


@given(plans())
def test_a_plan_fits_and_never_parts_rows_with_logits(plan: tuple[list[tuple[int, int]], int, int]) -> None:
    pending, max_rows, prefill_rows = plan
    num_rows = plan_rows(pending, max_rows, prefill_rows)
    assert len(num_rows) == len(pending)
    assert sum(num_rows) <= max_rows
    for taken, (rows, outputs) in zip(num_rows, pending, strict=True):
        assert taken == rows or 0 <= taken <= rows - outputs


@given(plans())
def test_prompts_take_at_most_their_share_beside_others(plan: tuple[list[tuple[int, int]], int, int]) -> None:
    pending, max_rows, prefill_rows = plan
    num_rows = plan_rows(pending, max_rows, prefill_rows)
    is_short = [rows <= min(outputs + 1, max_rows) for rows, outputs in pending]
    if any(taken for taken, short in zip(num_rows, is_short, strict=True) if short):
        assert sum(taken for taken, short in zip(num_rows, is_short, strict=True) if not short) <= prefill_rows


@given(plans())
def test_everything_gets_done(plan: tuple[list[tuple[int, int]], int, int]) -> None:
    pending, max_rows, prefill_rows = plan
    while pending:
        num_rows = plan_rows(pending, max_rows, prefill_rows)
        assert any(num_rows), f"no progress with {pending}"
        pending = [
            (rows - taken, outputs) for taken, (rows, outputs) in zip(num_rows, pending, strict=True) if taken < rows
        ]
