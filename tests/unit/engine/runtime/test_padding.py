"""Padding: what goes to the inner runtime, and what comes back."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engine.runtime.decode_costs import DecodeCosts
from services.engine.runtime.interface import Logits, Segment
from services.engine.runtime.padding import ExactMode, Exactness, PaddedRuntime, reserve
from tests.unit.engine.linear_costs import LinearCosts


class RecordingRuntime:
    """Keeps what it is asked for; each row of logits is [slot, position]."""

    vocabulary_size = 2

    def __init__(self, num_slots: int = 6, context_length: int = 64, max_batch_rows: int = 256) -> None:
        self.costs = DecodeCosts()
        self.num_slots = self.max_sessions = num_slots
        self.context_length = context_length
        self.max_batch_rows = max_batch_rows
        self.decodes: list[list[Segment]] = []
        self.cuts: list[tuple[int, int]] = []
        self.copies: list[tuple[int, int, int]] = []

    def padded_rows(self, num_sessions: int, num_rows: int) -> int:
        return num_sessions * num_rows

    def group(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        return [list(segments)]

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        self.decodes.append(list(segments))
        rows = []
        for segment in segments:
            end = segment.first_position + segment.num_rows
            first_padding = end - segment.num_padding
            positions = range(first_padding - segment.num_outputs, first_padding + segment.num_padding_outputs)
            rows.append(np.array([(segment.slot, position) for position in positions], np.float32))
        return rows

    def attention_digest(self, slot: int, position: int) -> bytes:
        return b""

    def reachable(self, slot: int, length: int) -> int:
        return length

    def cut(self, slot: int, length: int) -> None:
        self.cuts.append((slot, length))

    def copy(self, source: int, target: int, length: int) -> None:
        self.copies.append((source, target, length))

    def close(self) -> None:
        pass


def exact(width: int, mode: ExactMode = ExactMode.ROW_MULTIPLE, max_draft_tokens: int = 7) -> PaddedRuntime:
    return PaddedRuntime(RecordingRuntime(), Exactness(mode, width), max_draft_tokens)


def inner(runtime: PaddedRuntime) -> RecordingRuntime:
    recording = runtime._inner
    assert isinstance(recording, RecordingRuntime)
    return recording


def plain(max_draft_tokens: int = 7) -> PaddedRuntime:
    return PaddedRuntime(RecordingRuntime(), None, max_draft_tokens)


def num_logits(segment: Segment) -> int:
    return segment.num_outputs + segment.num_padding_outputs


def verification(slot: int, position: int, num_rows: int) -> Segment:
    return Segment(slot, position, [1] * num_rows, num_rows)


def test_every_sequence_gives_the_same_multiple_of_the_width() -> None:
    runtime = exact(4)
    segments = [verification(0, 5, 1), verification(1, 9, 6), verification(2, 0, 3)]
    (group,) = runtime.group(segments)
    logits = runtime.decode(group)
    assert [segment.num_rows for segment in inner(runtime).decodes[0]] == [8, 8, 8]
    assert [num_logits(segment) for segment in inner(runtime).decodes[0]] == [4, 8, 4]
    for segment, rows in zip(group, logits, strict=True):
        expected = [(segment.slot, segment.first_position + row) for row in range(len(segment.tokens))]
        assert [tuple(row) for row in rows] == expected


def test_throw_away_rows_are_cut_at_once() -> None:
    runtime = exact(4)
    runtime.decode([verification(0, 5, 3)])
    assert inner(runtime).cuts == [(0, 8)]


def test_gaps_are_filled_where_that_is_cheaper_than_a_decode_more() -> None:
    runtime = exact(8)
    segments = [verification(slot, 0, 1) for slot in (0, 2, 3)]
    (group,) = runtime.group(segments)
    runtime.decode(group)
    assert [(segment.slot, segment.num_rows) for segment in inner(runtime).decodes[0]] == [
        (0, 8),
        (1, 8),
        (2, 8),
        (3, 8),
    ]


def test_a_wide_gap_takes_two_decodes() -> None:
    groups = exact(8).group([verification(0, 0, 1), verification(5, 0, 1)])
    assert [[segment.slot for segment in group] for group in groups] == [[0], [5]]


def test_a_plain_decode_is_padded_to_one_pass_without_more_logits() -> None:
    runtime = plain()
    segments = [verification(0, 5, 1), verification(2, 9, 3)]
    (group,) = runtime.group(segments)
    logits = runtime.decode(group)
    decoded = inner(runtime).decodes[0]
    assert [(segment.slot, segment.num_rows, num_logits(segment)) for segment in decoded] == [
        (0, 3, 1),
        (1, 3, 0),
        (2, 3, 3),
    ]
    assert [[tuple(row) for row in rows] for rows in logits] == [[(0, 5)], [(2, 9), (2, 10), (2, 11)]]
    assert inner(runtime).cuts == [(0, 6), (1, 0)]


def test_one_session_alone_is_not_padded() -> None:
    runtime = plain()
    runtime.decode([verification(3, 5, 4)])
    assert inner(runtime).decodes == [[verification(3, 5, 4)]]
    assert inner(runtime).cuts == []


@given(
    st.dictionaries(st.integers(0, 7), st.integers(1, 8), min_size=1),
    st.integers(1, 8),
    st.floats(0, 100),
)
def test_grouping_costs_least_or_nearly_so_all_together(
    num_rows: dict[int, int], width: int, decode_in_rows: float
) -> None:
    """Against every way to cut the working slots, in their order, into decodes."""
    runtime = exact(width)
    runtime.costs = LinearCosts(decode_in_rows)
    segments = [verification(slot, 0, rows) for slot, rows in sorted(num_rows.items())]

    def cost(groups: Sequence[Sequence[Segment]]) -> float:
        total = 0.0
        for group in groups:
            slots = [segment.slot for segment in group]
            longest = max(-(-len(segment.tokens) // width) * width for segment in group)
            total += decode_in_rows + longest * (max(slots) - min(slots) + 1)
        return total

    def every_way(rest: Sequence[Segment]) -> list[list[Sequence[Segment]]]:
        if not rest:
            return [[]]
        return [[rest[:end], *others] for end in range(1, len(rest) + 1) for others in every_way(rest[end:])]

    groups = runtime.group(list(reversed(segments)))
    assert [segment for group in groups for segment in group] == segments
    least = min(cost(way) for way in every_way(segments))
    assert cost(groups) == pytest.approx(cost([segments]) if cost([segments]) <= 1.1 * least else least)


def test_groups_fit_into_a_batch() -> None:
    runtime = PaddedRuntime(RecordingRuntime(max_batch_rows=20), None, 7)
    runtime.costs = LinearCosts(1000.0)
    groups = runtime.group([verification(slot, 0, 8) for slot in range(6)])
    assert [len(group) for group in groups] == [2, 2, 2]


def test_a_copy_is_held() -> None:
    runtime = exact(4)
    runtime.decode([verification(0, 0, 4)])
    runtime.copy(0, 2, 3)
    assert inner(runtime).copies == [(0, 2, 3)]
    runtime.decode([verification(1, 0, 1), verification(3, 0, 1)])
    assert inner(runtime).decodes[1][1].first_position == 3


def test_gaps_hold_their_own_positions() -> None:
    runtime = exact(4)
    runtime.decode([verification(1, 0, 4)])
    runtime.decode([verification(0, 0, 1), verification(2, 0, 1)])
    gap = inner(runtime).decodes[1][1]
    assert (gap.slot, gap.first_position, gap.num_padding, len(gap.tokens)) == (1, 4, 4, 0)
    assert (1, 4) in inner(runtime).cuts


def test_a_prompt_is_decoded_by_itself() -> None:
    prompt = Segment(1, 0, [1] * 40, 1)
    groups = exact(8).group([verification(0, 3, 2), prompt, verification(2, 3, 8)])
    assert [[segment.slot for segment in group] for group in groups] == [[0, 2], [1]]


def test_the_last_rows_of_a_prompt_have_logits_in_multiples_of_the_width() -> None:
    runtime = exact(8)
    (logits,) = runtime.decode([Segment(0, 0, [1] * 37, 1)])
    (segment,) = inner(runtime).decodes[0]
    assert (segment.num_rows, num_logits(segment)) == (40, 8)
    assert [tuple(row) for row in logits] == [(0, 36)]


def test_a_prompt_part_without_logits_stays_without() -> None:
    runtime = exact(8)
    (logits,) = runtime.decode([Segment(0, 0, [1] * 32, 0)])
    assert num_logits(inner(runtime).decodes[0][0]) == 0
    assert len(logits) == 0


def test_constant_rows_fill_every_slot_and_cut_prompts_into_pieces() -> None:
    runtime = exact(8, ExactMode.CONSTANT_ROWS)
    groups = runtime.group([Segment(0, 0, list(range(20)), 1), verification(3, 7, 2)])
    logits = [runtime.decode(group) for group in groups]
    assert all(
        [(segment.slot, segment.num_rows) for segment in decode] == [(slot, 8) for slot in range(6)]
        for decode in inner(runtime).decodes
    )
    pieces = [segment for group in groups for segment in group if segment.slot == 0]
    assert [token for piece in pieces for token in piece.tokens] == list(range(20))
    assert [piece.num_outputs for piece in pieces] == [0, 0, 1]
    assert [tuple(row) for row in logits[-1][0]] == [(0, 19)]


@pytest.mark.parametrize(
    ("mode", "width", "max_draft_tokens", "expected"),
    [
        (ExactMode.ROW_MULTIPLE, 8, 7, 8),
        (ExactMode.ROW_MULTIPLE, 8, 8, 16),
        (ExactMode.ROW_MULTIPLE, 2, 16, 18),
        (ExactMode.CONSTANT_ROWS, 8, 7, 8),
    ],
)
def test_reserve(mode: ExactMode, width: int, max_draft_tokens: int, expected: int) -> None:
    assert reserve(Exactness(mode, width), max_draft_tokens) == expected


def test_more_rows_are_decoded_where_they_are_quicker() -> None:
    runtime = plain()
    for num_rows, duration_s in ((3, 0.030), (4, 0.020), (5, 0.028)):
        runtime.costs.observe(num_rows, duration_s, num_sessions=1)
    (logits,) = runtime.decode([Segment(0, 10, [7, 7, 7], 3)])
    assert [segment.num_rows for segment in inner(runtime).decodes[-1]] == [4]
    assert inner(runtime).cuts == [(0, 13)]
    assert logits[:, 1].tolist() == [10, 11, 12]
    runtime.decode([Segment(0, 13, [7, 7, 7, 7], 4)])
    assert [segment.num_rows for segment in inner(runtime).decodes[-1]] == [4]


def test_times_that_hardly_differ_change_nothing() -> None:
    runtime = plain()
    for num_rows, duration_s in ((3, 0.030), (4, 0.029)):
        runtime.costs.observe(num_rows, duration_s, num_sessions=1)
    runtime.decode([Segment(0, 10, [7, 7, 7], 3)])
    assert [segment.num_rows for segment in inner(runtime).decodes[-1]] == [3]


def test_a_prompt_is_never_padded_so() -> None:
    runtime = plain(max_draft_tokens=2)
    for num_rows, duration_s in ((4, 0.030), (5, 0.010)):
        runtime.costs.observe(num_rows, duration_s, num_sessions=1)
    runtime.decode([Segment(0, 10, [7] * 4, 1)])
    assert [segment.num_rows for segment in inner(runtime).decodes[-1]] == [4]
