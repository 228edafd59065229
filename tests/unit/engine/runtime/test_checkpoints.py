"""Models that keep a state: whatever is taken back, the logits are those of the sequence."""

import random

import numpy as np
import pytest

from services.engine.errors import DecodeError
from services.engine.runtime.checkpoints import MOST_TAIL
from services.engine.runtime.interface import Segment
from tests.unit.engine.fakes import VOCABULARY_SIZE, fake_logits
from tests.unit.engine.stateful import (
    MAX_DRAFT_TOKENS,
    STATE_BYTES,
    TEXT,
    StatefulFake,
    decode,
    expected,
    prompt,
    runtime_over,
    verify,
)

LONG = 100


@pytest.mark.parametrize("num_snapshots", [0, 2, 10])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_what_is_rejected_leaves_no_trace(width: int, num_snapshots: int) -> None:
    runtime = runtime_over(StatefulFake(width=width, num_snapshots=num_snapshots))
    prompt(runtime, 1, 11)
    held = 11
    for num_right, num_wrong in [(0, 3), (2, 1), (0, 0), (3, 0), (1, 6), (0, 7), (7, 0), (0, 0), (0, 1)] * 3:
        held = verify(runtime, 1, held, num_right, num_wrong)


def test_plain_decoding_evaluates_one_row_a_token_and_reads_the_state_rarely() -> None:
    inner = StatefulFake()
    runtime = runtime_over(inner)
    prompt(runtime, 0, 11)
    for position in range(11, 111):
        (rows,) = decode(runtime, Segment(0, position, TEXT[position : position + 1], 1))
        assert np.array_equal(rows, expected(TEXT[: position + 1], 1))
    assert {segment.num_rows for (segment,) in inner.batches[1:]} == {1}
    assert inner.num_saves < 3


def test_what_was_accepted_is_evaluated_again_with_the_next_rows() -> None:
    inner = StatefulFake()
    runtime = runtime_over(inner)
    prompt(runtime, 0, 11)
    held = verify(runtime, 0, 11, num_right=2, num_wrong=1)
    verify(runtime, 0, held, num_right=1)
    assert [segment.num_rows for (segment,) in inner.batches[1:]] == [4, 5]


def test_a_draft_that_was_accepted_as_a_whole_costs_nothing_more() -> None:
    inner = StatefulFake()
    runtime = runtime_over(inner)
    prompt(runtime, 0, 11)
    held = 11
    for _ in range(5):
        held = verify(runtime, 0, held, num_right=3)
    assert [segment.num_rows for (segment,) in inner.batches[1:]] == [4] * 5


def test_a_long_tail_is_evaluated_by_itself_once() -> None:
    inner = StatefulFake()
    runtime = runtime_over(inner)
    prompt(runtime, 0, 11)
    held = 11
    for _ in range(30):
        held = verify(runtime, 0, held, num_right=1, num_wrong=1)
    rows = [segment.num_rows for (segment,) in inner.batches[1:]]
    assert max(rows) < MOST_TAIL + 3
    assert sum(segment.num_outputs == 0 for (segment,) in inner.batches) == 30 * 2 // MOST_TAIL


@pytest.mark.parametrize(("decode_s", "rows"), [(100.0, [11]), (0.0, [3, 8])])
def test_a_tail_goes_by_itself_where_a_decode_is_cheap_beside_its_rows(decode_s: float, rows: list[int]) -> None:
    inner = StatefulFake()
    for num_rows in range(1, 17):
        inner.costs.observe(num_rows, decode_s + num_rows)
    runtime = runtime_over(inner)
    prompt(runtime, 0, 11)
    held = verify(runtime, 0, 11, num_right=2, num_wrong=5)
    num_before = len(inner.batches)
    verify(runtime, 0, held, num_right=7)
    assert [segment.num_rows for (segment,) in inner.batches[num_before:]] == rows


def test_one_long_tail_is_not_paid_for_by_all_neighbours() -> None:
    inner = StatefulFake()
    for num_sessions, num_rows in ((sessions, sessions * count) for sessions in (1, 3) for count in range(1, 17)):
        inner.costs.observe(num_rows, 10.0 + num_rows, num_sessions)
    runtime = runtime_over(inner)
    for slot in range(3):
        prompt(runtime, slot, 11)
    held = [verify(runtime, slot, 11, num_right=5, num_wrong=2 * (slot == 1)) for slot in range(3)]
    num_before = len(inner.batches)
    decode(runtime, *(Segment(slot, end, TEXT[end : end + 4], 4, num_tentative=3) for slot, end in enumerate(held)))
    assert [[each.num_rows for each in batch] for batch in inner.batches[num_before:]] == [[6], [4, 4, 4]]


def test_a_proposal_goes_back_to_where_it_began() -> None:
    """As a draft service does: row by row, each of them uncertain, and then another beginning."""
    inner = StatefulFake()
    runtime = runtime_over(inner)
    prompt(runtime, 0, 11)
    held = 11
    for num_right in (0, 2, 3, 1):
        draft = [*TEXT[held : held + num_right], *[VOCABULARY_SIZE - 1] * (3 - num_right)]
        for index, token in enumerate(draft):
            decode(runtime, Segment(0, held + index, [token], 1, num_tentative=1))
        runtime.cut(0, held + num_right)
        held += num_right
        (rows,) = decode(runtime, Segment(0, held, TEXT[held : held + 1], 1))
        held += 1
        assert np.array_equal(rows, expected(TEXT[:held], 1))


@pytest.mark.parametrize("width", [1, 2])
def test_the_same_prompt_again_begins_at_its_last_row(width: int) -> None:
    inner = StatefulFake(width=width)
    runtime = runtime_over(inner)
    prompt(runtime, 0, LONG)
    held = verify(runtime, 0, LONG, num_right=5)
    verify(runtime, 0, held, num_right=3)
    reached = runtime.reachable(0, LONG - 1)
    assert LONG - 1 - width < reached < LONG
    runtime.cut(0, reached)
    (rows,) = decode(runtime, Segment(0, reached, TEXT[reached:LONG], 1))
    assert np.array_equal(rows, expected(TEXT[:LONG], 1))


def test_where_no_state_was_kept_nothing_is_reached() -> None:
    runtime = runtime_over(StatefulFake(), num_kept=0)
    prompt(runtime, 0, LONG)
    verify(runtime, 0, LONG, num_right=5)
    assert runtime.reachable(0, LONG - 1) == 0
    with pytest.raises(DecodeError, match="slot 0 has no state of length 99"):
        runtime.cut(0, LONG - 1)
    runtime.cut(0, 0)
    prompt(runtime, 0, LONG)


def test_states_stay_within_their_bytes_and_the_oldest_go_first() -> None:
    runtime = runtime_over(StatefulFake(), num_kept=2)
    for slot in range(3):
        prompt(runtime, slot, LONG)
        verify(runtime, slot, LONG, num_right=1)
    assert runtime.num_checkpoint_bytes == 2 * STATE_BYTES
    assert [runtime.reachable(slot, LONG - 1) for slot in range(3)] == [0, LONG - 1, LONG - 1]
    runtime.cut(2, 0)
    assert runtime.num_checkpoint_bytes == STATE_BYTES


@pytest.mark.parametrize("num_snapshots", [0, 8])
@pytest.mark.parametrize("length", [LONG - 1, LONG + 2])
def test_a_slot_begins_with_what_another_one_holds(length: int, num_snapshots: int) -> None:
    runtime = runtime_over(StatefulFake(num_snapshots=num_snapshots))
    prompt(runtime, 0, LONG)
    verify(runtime, 0, LONG, num_right=4, num_wrong=1)
    assert runtime.reachable(0, length) == length
    runtime.copy(0, 2, length)
    for slot, held in ((2, length), (0, LONG + 5)):
        verify(runtime, slot, held, num_right=2, num_wrong=1)


@pytest.mark.parametrize("num_snapshots", [0, 8])
def test_a_failed_decode_leaves_nothing_behind(num_snapshots: int) -> None:
    inner = StatefulFake(num_snapshots=num_snapshots)
    runtime = runtime_over(inner)
    prompt(runtime, 1, 11)
    held = verify(runtime, 1, 11, num_right=2, num_wrong=1)
    prompt(runtime, 0, LONG)
    inner.failing = {len(inner.batches)}
    with pytest.raises(DecodeError, match="told to fail"):
        verify(runtime, 0, LONG, num_right=2)
    assert runtime.reachable(0, LONG) == 0
    assert runtime.num_checkpoint_bytes == 0
    prompt(runtime, 0, LONG)
    # It may have moved what others were at.
    verify(runtime, 1, held, num_right=2)


def test_a_long_tail_is_evaluated_in_parts_where_decodes_are_small() -> None:
    inner = StatefulFake(max_batch_rows=32)
    runtime = runtime_over(inner)
    for position in range(60):
        decode(runtime, Segment(0, position, TEXT[position : position + 1], 1))
    runtime.cut(0, 50)
    verify(runtime, 0, 50, num_right=2)


def test_where_sessions_would_disturb_each_other_each_has_decodes_of_its_own() -> None:
    inner = StatefulFake()
    runtime = runtime_over(inner, is_shared=False)
    decode(runtime, *(Segment(slot, 0, TEXT[:5], 1) for slot in range(3)))
    assert [len(batch) for batch in inner.batches] == [1, 1, 1]
    assert runtime.max_sessions == 1


@pytest.mark.parametrize("num_snapshots", [0, 1, 4, 11])
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("seed", range(6))
def test_whatever_sessions_do_each_gets_its_own_logits(seed: int, width: int, num_snapshots: int) -> None:
    rng = random.Random(seed)
    inner = StatefulFake(width=width, num_snapshots=num_snapshots)
    runtime = runtime_over(inner, num_kept=3)
    # They begin alike.
    texts = [TEXT[:60] + [rng.randrange(VOCABULARY_SIZE) for _ in range(100)] for _ in range(inner.num_slots)]
    held = [0] * inner.num_slots
    num_compared = num_rewound = num_copied = 0
    for _ in range(120):
        segments = []
        right = {}
        for slot, text in enumerate(texts):
            if rng.random() < 0.3:
                continue
            if held[slot] > len(text) - 2 or rng.random() < 0.1:
                wanted = rng.randrange(held[slot] + 1)
                held[slot] = runtime.reachable(slot, wanted)
                num_rewound += held[slot] > 0
                runtime.cut(slot, held[slot])
            begins = not held[slot] or rng.random() < 0.1
            num_rows = rng.randint(1, min(90 if begins else MAX_DRAFT_TOKENS + 1, len(text) - held[slot]))
            num_right = num_rows if begins else rng.randint(1, num_rows)
            rows = text[held[slot] : held[slot] + num_right] + [VOCABULARY_SIZE - 1] * (num_rows - num_right)
            num_outputs = rng.randint(0, 1) if num_rows > 9 else num_rows if not begins else 1
            num_tentative = 0 if begins else num_rows - 1
            segments.append(Segment(slot, held[slot], rows, num_outputs, num_tentative=num_tentative))
            right[slot] = held[slot] + num_right
        for segment, logits in zip(segments, decode(runtime, *segments), strict=True):
            end = segment.first_position + len(segment.tokens)
            for position, row in zip(range(end - segment.num_outputs, end), logits, strict=True):
                if position < right[segment.slot]:
                    num_compared += 1
                    assert np.array_equal(row, fake_logits(tuple(texts[segment.slot][: position + 1])))
        for slot, length in right.items():
            held[slot] = length
            runtime.cut(slot, length)
        source, target = rng.sample(range(inner.num_slots), 2)
        if rng.random() < 0.1 and (shared := runtime.reachable(source, min(held[source], 60))):
            runtime.cut(target, 0)
            runtime.copy(source, target, shared)
            held[target] = shared
            num_copied += 1
    assert num_compared > 200 and num_rewound and num_copied
    assert bool(inner.num_rolled_back) == bool(num_snapshots)
