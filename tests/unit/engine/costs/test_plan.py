"""Which decodes are measured."""

import pytest

from services.engine.costs.plan import Setup, context_lengths, plan, session_counts


@pytest.mark.parametrize(("num_slots", "counts"), [(1, [1]), (3, [1, 3]), (8, [1, 4, 8]), (20, [1, 4, 8, 16, 20])])
def test_sessions_go_up_to_all_slots(num_slots: int, counts: list[int]) -> None:
    assert session_counts(num_slots) == counts


@pytest.mark.parametrize(
    ("most_positions", "lengths"),
    [
        (64, [48]),
        (144, [128]),
        (2048, [128, 512, 2032]),
        (8192, [128, 512, 2048, 8176]),
        (100_000, [128, 512, 2048, 8192]),
    ],
)
def test_rows_fit_behind_every_context(most_positions: int, lengths: list[int]) -> None:
    assert context_lengths(most_positions, 16) == lengths


def setup_bytes(setup: Setup) -> int:
    return setup.context * setup.num_slots


def test_everything_is_planned_where_memory_is_plenty() -> None:
    planned = plan(8, [128, 512], [1, 2], 1 << 30, setup_bytes)
    assert planned.left_out == []
    assert len(set(planned.shapes)) == 2 * 2 * 3 * 2
    assert {shape.setup.num_slots for shape in planned.shapes} == {8}
    assert max(shape.num_rows for shape in planned.shapes) == 16


def test_long_contexts_have_fewer_sessions_where_memory_is_short() -> None:
    # 2 x 8 x 128 for the first length, then 2 x 4 x 512, then nothing of the third.
    planned = plan(8, [128, 512, 2048], [1], 2 * 8 * 128 + 2 * 4 * 512, setup_bytes)
    sessions = {
        length: {shape.num_sessions for shape in planned.shapes if shape.setup.context == length}
        for length in (128, 512, 2048)
    }
    assert sessions == {128: {1, 4, 8}, 512: {1, 4}, 2048: set()}
    assert planned.left_out == [
        "more than 4 sessions at context 512: no memory",
        "any session at context 2048: no memory",
    ]
    # Both kinds of attention are measured alike.
    assert {shape.setup.flash_attention for shape in planned.shapes if shape.setup.context == 512} == {False, True}
