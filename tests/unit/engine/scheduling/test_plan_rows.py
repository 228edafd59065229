"""How many rows of each work go into a decode."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.scheduling.work import PATIENCE, Work, plan_rows
from tests.unit.engine.works import Greedy, prefix

LONG = (100, 1)


def waiting(num_rows: int, num_outputs: int, num_passed_over: int = 0) -> Work[Any]:
    """Work with so many rows left, the last ones with logits, that had no part in so many decodes."""
    work = Greedy(prefix("a", [0]))
    work.pending, work.num_outputs, work.num_passed_over = [0] * num_rows, num_outputs, num_passed_over
    return work


def late_long(num_works: int) -> tuple[int, int, int]:
    """A prompt that has waited for as long as anything has to among so many works."""
    return (100, 1, PATIENCE * num_works)


@pytest.mark.parametrize(
    ("pending", "max_rows", "prompt_rows", "expected"),
    [
        pytest.param([], 8, 4, [], id="nothing to do"),
        pytest.param([(1, 1), (1, 1)], 8, 4, [1, 1], id="all that is ready goes together"),
        pytest.param([(3, 3), (1, 1), (6, 5)], 16, 4, [3, 1, 6], id="drafts of different lengths go together"),
        pytest.param([(5, 5), (5, 5)], 8, 4, [5, 0], id="what does not fit waits, the earlier goes first"),
        pytest.param([(5, 5), (5, 5), (2, 2)], 8, 4, [5, 0, 2], id="a small one slips in"),
        pytest.param([LONG], 8, 4, [4], id="a prompt takes its share"),
        pytest.param([LONG], 8, 16, [8], id="and no more than the batch"),
        pytest.param([LONG, (1, 1)], 16, 0, [0, 1], id="a prompt whose turn it is not"),
        pytest.param([LONG, (20, 1), (1, 1)], 32, 16, [0, 16, 1], id="the shorter of two prompts goes first"),
        pytest.param([LONG, (1, 1)], 16, 4, [4, 1], id="a prompt beside others takes its share"),
        pytest.param([LONG, LONG, (1, 1)], 16, 4, [4, 0, 1], id="prompts beside others share one share"),
        pytest.param([LONG, (8, 8)], 8, 4, [0, 8], id="a prompt waits for short work"),
        pytest.param([(6, 2)], 6, 6, [6], id="a prompt that fits goes whole"),
        pytest.param([(6, 3)], 5, 5, [3], id="rows with logits are not parted"),
        pytest.param([(7, 3)], 5, 5, [4], id="rows without logits go ahead"),
        pytest.param([(19, 2), (19, 2)], 24, 24, [19, 5], id="two prompts share the batch"),
        pytest.param([(4, 4), (4, 4), late_long(3)], 8, 3, [4, 0, 3], id="a prompt that waited for long goes first"),
        pytest.param([(8, 8), late_long(2)], 8, 3, [0, 3], id="even where nothing else has room then"),
        pytest.param([(20, 1), late_long(3), (1, 1)], 16, 4, [0, 4, 1], id="before a shorter prompt, too"),
        pytest.param([(8, 8), (2, 2), (7, 7, 3 * PATIENCE)], 8, 4, [0, 0, 7], id="a draft that small ones kept out"),
        pytest.param([late_long(2), late_long(3)], 8, 8, [0, 8], id="who waited longest goes first"),
        pytest.param([(1, 1), (100, 1, 2 * PATIENCE - 1)], 4, 2, [1, 2], id="until then short work goes first"),
    ],
)
def test_named_cases(pending: list[tuple[int, ...]], max_rows: int, prompt_rows: int, expected: list[int]) -> None:
    assert plan_rows([waiting(*work) for work in pending], max_rows, prompt_rows) == expected


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[Work[Any]], int, int]:
    """Works that can be done at all: none wants logits of more rows than a decode has."""
    max_rows = draw(st.integers(1, 24))
    prompt_rows = draw(st.integers(1, max_rows))
    outputs = draw(st.lists(st.integers(1, max_rows), max_size=8))
    passed_over = st.integers(0, 3 * PATIENCE)
    works = [waiting(number + draw(st.integers(0, 40)), number, draw(passed_over)) for number in outputs]
    return works, max_rows, prompt_rows


@given(plans())
def test_a_plan_fits_and_never_parts_rows_with_logits(plan: tuple[list[Work[Any]], int, int]) -> None:
    works, max_rows, prompt_rows = plan
    num_rows = plan_rows(works, max_rows, prompt_rows)
    assert len(num_rows) == len(works)
    assert sum(num_rows) <= max_rows
    for taken, work in zip(num_rows, works, strict=True):
        assert taken == len(work.pending) or 0 <= taken <= len(work.pending) - work.num_outputs


@given(plans())
def test_prompts_take_at_most_their_share_beside_others(plan: tuple[list[Work[Any]], int, int]) -> None:
    works, max_rows, prompt_rows = plan
    num_rows = plan_rows(works, max_rows, prompt_rows)
    assert sum(taken for taken, work in zip(num_rows, works, strict=True) if work.is_prompt) <= prompt_rows


def take(work: Work[Any], num_rows: int) -> None:
    """Let a decode evaluate so many rows of it."""
    work.pending = work.pending[num_rows:]
    work.num_passed_over = 0 if num_rows else work.num_passed_over + 1


@st.composite
def loads(draw: st.DrawFn) -> tuple[list[Work[Any]], int, int, int]:
    """Works one after the other, sessions at a time, rows of a decode, and prompt rows beside others."""
    max_rows = draw(st.integers(1, 12))
    outputs = draw(st.lists(st.integers(1, max_rows), min_size=1, max_size=40))
    works = [waiting(number + draw(st.sampled_from([0, 0, 0, 1, 7, 60])), number) for number in outputs]
    return works, draw(st.integers(1, 6)), max_rows, draw(st.integers(1, max_rows))


@given(loads())
def test_everything_gets_done_and_nothing_waits_for_ever(load: tuple[list[Work[Any]], int, int, int]) -> None:
    """Whatever comes next takes the place of what is done, as in a service under load."""
    coming, num_sessions, max_rows, prompt_rows = load
    num_decodes, most_decodes = 0, sum(len(work.pending) for work in coming)
    active: list[Work[Any]] = []
    while coming or active:
        while coming and len(active) < num_sessions:
            active.append(coming.pop(0))
        plan = plan_rows(active, max_rows, prompt_rows)
        num_decodes += 1
        assert num_decodes <= most_decodes, "each decode evaluates something"
        for work, taken in zip(active, plan, strict=True):
            take(work, taken)
            assert work.num_passed_over < (PATIENCE + 1) * num_sessions
        active = [work for work in active if work.pending]


def test_steady_work_does_not_keep_a_prompt_out() -> None:
    """Every decode could be filled by drafts, which always come again."""
    prompt = waiting(100, 1)
    num_decodes = 0
    while prompt.pending:
        take(prompt, plan_rows([waiting(8, 8), prompt, waiting(8, 8)], 16, 4)[1])
        num_decodes += 1
        assert num_decodes <= 100 // 4 * (3 * PATIENCE + 1)
