"""Padding for exactness: what goes to the inner runtime, and what comes back."""

from collections.abc import Sequence

import numpy as np
import pytest

from services.engine.exact import ExactMode, Exactness, ExactRuntime, reserve
from services.engine.runtime import Logits, Segment


class RecordingRuntime:
    """Keeps what it is asked for; each row of logits is [slot, position]."""

    vocabulary_size = 2

    def __init__(self, num_slots: int = 6, context_length: int = 64, max_batch_rows: int = 256) -> None:
        self.num_slots = num_slots
        self.context_length = context_length
        self.max_batch_rows = max_batch_rows
        self.decodes: list[list[Segment]] = []
        self.cuts: list[tuple[int, int]] = []

    def group(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        return [list(segments)]

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        self.decodes.append(list(segments))
        rows = []
        for segment in segments:
            end = segment.first_position + segment.num_rows
            first = end - segment.num_padding - segment.num_outputs
            rows.append(np.array([(segment.slot, position) for position in range(first, end)], np.float32))
        return rows

    def cut(self, slot: int, length: int) -> None:
        self.cuts.append((slot, length))

    def close(self) -> None:
        pass


def exact(width: int, mode: ExactMode = ExactMode.ROW_MULTIPLE, max_draft_tokens: int = 7) -> ExactRuntime:
    return ExactRuntime(RecordingRuntime(), Exactness(mode, width), max_draft_tokens)


def inner(runtime: ExactRuntime) -> RecordingRuntime:
    recording = runtime._inner
    assert isinstance(recording, RecordingRuntime)
    return recording


def verification(slot: int, position: int, num_rows: int) -> Segment:
    return Segment(slot, position, [1] * num_rows, num_rows)


def test_every_sequence_gives_the_same_multiple_of_the_width() -> None:
    runtime = exact(4)
    segments = [verification(0, 5, 1), verification(1, 9, 6), verification(2, 0, 3)]
    (group,) = runtime.group(segments)
    logits = runtime.decode(group)
    assert [segment.num_rows for segment in inner(runtime).decodes[0]] == [8, 8, 8]
    assert all((segment.num_outputs + segment.num_padding) % 4 == 0 for segment in inner(runtime).decodes[0])
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
    assert (segment.num_rows, segment.num_outputs + segment.num_padding) == (40, 8)
    assert [tuple(row) for row in logits] == [(0, 36)]


def test_a_prompt_part_without_logits_stays_without() -> None:
    runtime = exact(8)
    (logits,) = runtime.decode([Segment(0, 0, [1] * 32, 0)])
    assert inner(runtime).decodes[0][0].num_outputs == 0
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
