"""How many rows of each work go into a decode."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.scheduling.plan import PATIENCE, Pending, plan_rows

LONG = (100, 1)


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
    assert plan_rows([Pending(*work) for work in pending], max_rows, prompt_rows) == expected


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[Pending], int, int]:
    """Works that can be done at all: none wants logits of more rows than a decode has."""
    max_rows = draw(st.integers(1, 24))
    prompt_rows = draw(st.integers(1, max_rows))
    outputs = draw(st.lists(st.integers(1, max_rows), max_size=8))
    passed_over = st.integers(0, 3 * PATIENCE)
    pending = [Pending(number + draw(st.integers(0, 40)), number, draw(passed_over)) for number in outputs]
    return pending, max_rows, prompt_rows


@given(plans())
def test_a_plan_fits_and_never_parts_rows_with_logits(plan: tuple[list[Pending], int, int]) -> None:
    pending, max_rows, prompt_rows = plan
    num_rows = plan_rows(pending, max_rows, prompt_rows)
    assert len(num_rows) == len(pending)
    assert sum(num_rows) <= max_rows
    for taken, (rows, outputs, _) in zip(num_rows, pending, strict=True):
        assert taken == rows or 0 <= taken <= rows - outputs


@given(plans())
def test_prompts_take_at_most_their_share_beside_others(plan: tuple[list[Pending], int, int]) -> None:
    pending, max_rows, prompt_rows = plan
    num_rows = plan_rows(pending, max_rows, prompt_rows)
    assert sum(taken for taken, work in zip(num_rows, pending, strict=True) if work.is_prompt) <= prompt_rows


@dataclass
class _Work:
    """A piece of work, and how it fared."""

    num_rows: int
    num_outputs: int
    num_passed_over: int = 0

    @property
    def pending(self) -> Pending:
        return Pending(self.num_rows, self.num_outputs, self.num_passed_over)


@st.composite
def loads(draw: st.DrawFn) -> tuple[list[_Work], int, int, int]:
    """Works one after the other, sessions at a time, rows of a decode, and prompt rows beside others."""
    max_rows = draw(st.integers(1, 12))
    outputs = draw(st.lists(st.integers(1, max_rows), min_size=1, max_size=40))
    works = [_Work(number + draw(st.sampled_from([0, 0, 0, 1, 7, 60])), number) for number in outputs]
    return works, draw(st.integers(1, 6)), max_rows, draw(st.integers(1, max_rows))


@given(loads())
def test_everything_gets_done_and_nothing_waits_for_ever(load: tuple[list[_Work], int, int, int]) -> None:
    """Whatever comes next takes the place of what is done, as in a service under load."""
    coming, num_sessions, max_rows, prompt_rows = load
    num_decodes, most_decodes = 0, sum(work.num_rows for work in coming)
    active: list[_Work] = []
    while coming or active:
        while coming and len(active) < num_sessions:
            active.append(coming.pop(0))
        plan = plan_rows([work.pending for work in active], max_rows, prompt_rows)
        num_decodes += 1
        assert num_decodes <= most_decodes, "each decode evaluates something"
        for work, taken in zip(active, plan, strict=True):
            work.num_rows -= taken
            work.num_passed_over = 0 if taken else work.num_passed_over + 1
            assert work.num_passed_over < (PATIENCE + 1) * num_sessions
        active = [work for work in active if work.num_rows]


def test_steady_work_does_not_keep_a_prompt_out() -> None:
    """Every decode could be filled by drafts, which always come again."""
    prompt = _Work(100, 1)
    num_decodes = 0
    while prompt.num_rows:
        taken = plan_rows([Pending(8, 8), prompt.pending, Pending(8, 8)], 16, 4)[1]
        prompt.num_rows -= taken
        prompt.num_passed_over = 0 if taken else prompt.num_passed_over + 1
        num_decodes += 1
        assert num_decodes <= 100 // 4 * (3 * PATIENCE + 1)
