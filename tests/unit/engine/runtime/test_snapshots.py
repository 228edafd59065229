"""Snapshots of a state: rows are taken back from them where that is right, and else as without them."""

from dataclasses import replace

import pytest

from services.engine.runtime.interface import Segment
from tests.unit.engine.fakes import VOCABULARY_SIZE
from tests.unit.engine.stateful import TEXT, StatefulFake, decode, prompt, runtime_over, verify


@pytest.mark.parametrize("width", [1, 2])
def test_with_snapshots_nothing_is_evaluated_again(width: int) -> None:
    inner = StatefulFake(width=width, num_snapshots=8)
    runtime = runtime_over(inner)
    prompt(runtime, 0, 11)
    num_before = len(inner.batches)
    held = 11
    for num_right, num_wrong in [(2, 1), (0, 7), (0, 0), (3, 0), (1, 6), (5, 1)] * 5:
        held = verify(runtime, 0, held, num_right, num_wrong)
        (segment,) = inner.batches[-1]
        assert segment.num_rows == (1 + num_right + num_wrong + width - 1) // width * width
    assert len(inner.batches) == num_before + 6 * 5
    # The base follows now and then.
    assert inner.num_saves < 3
    assert inner.num_put_back < 2


def test_what_snapshots_do_not_reach_is_evaluated_again() -> None:
    inner = StatefulFake(num_snapshots=2)
    runtime = runtime_over(inner)
    prompt(runtime, 0, 11)
    held = 11
    for num_right, num_wrong in [(2, 1), (1, 1), (0, 4), (0, 2), (2, 0)]:
        held = verify(runtime, 0, held, num_right, num_wrong)
    assert [segment.num_rows for (segment,) in inner.batches[1:]] == [4, 3, 5, 4, 3]


def test_padding_and_rejected_tokens_are_taken_back_at_once() -> None:
    inner = StatefulFake(num_snapshots=8)
    runtime = runtime_over(inner)
    for slot in range(2):
        prompt(runtime, slot, 11)
    for held, long in ((11, 0), (12, 1), (13, 0)):
        segments = [
            Segment(slot, held, TEXT[held : held + 1 + 4 * (slot == long)], 1, num_tentative=4 * (slot == long))
            for slot in range(2)
        ]
        segments[long] = replace(segments[long], num_outputs=5)
        decode(runtime, *segments)
        runtime.cut(long, held + 1)
    assert [[each.num_rows for each in batch] for batch in inner.batches[2:]] == [[5, 5]] * 3
    # What is left of the last decode's padding is taken back before the next one.
    assert inner.num_rolled_back == 2 * 3 - 1
    for slot in range(2):
        verify(runtime, slot, 14, num_right=2, num_wrong=1)


@pytest.mark.parametrize("num_snapshots", [0, 3, 8])
@pytest.mark.parametrize("num_rows", [1, 3])
def test_a_decode_can_be_taken_back_whole(num_rows: int, num_snapshots: int) -> None:
    """Its first row, too, of which there is no snapshot."""
    runtime = runtime_over(StatefulFake(num_snapshots=num_snapshots))
    prompt(runtime, 0, 11)
    held = verify(runtime, 0, 11, num_right=4, num_wrong=1)
    held = verify(runtime, 0, held, num_right=4)
    wrong = [VOCABULARY_SIZE - 1] * num_rows
    decode(runtime, Segment(0, held, wrong, num_rows, num_tentative=num_rows))
    runtime.cut(0, held)
    verify(runtime, 0, held, num_right=2)


@pytest.mark.parametrize("num_snapshots", [0, 8])
def test_what_is_cut_twice_is_right(num_snapshots: int) -> None:
    runtime = runtime_over(StatefulFake(num_snapshots=num_snapshots))
    prompt(runtime, 0, 11)
    decode(runtime, Segment(0, 11, TEXT[11:17], 6, num_tentative=5))
    for length in (16, 14):
        runtime.cut(0, length)
    verify(runtime, 0, 14, num_right=2)


@pytest.mark.parametrize("num_snapshots", [0, 8])
def test_what_is_cut_after_another_decode_is_right(num_snapshots: int) -> None:
    runtime = runtime_over(StatefulFake(num_snapshots=num_snapshots))
    for slot in range(2):
        prompt(runtime, slot, 11)
    decode(runtime, Segment(0, 11, TEXT[11:17], 6, num_tentative=5))
    verify(runtime, 1, 11, num_right=2)
    runtime.cut(0, 14)
    verify(runtime, 0, 14, num_right=2)
