"""Cycles counted along texts whose every agreement is known."""

from __future__ import annotations

import pytest

from models.evaluate.acceptance import Acceptance, count_acceptance

CASES = {
    "perfect match": ("++++++++++", 4, Acceptance(2, [2, 2, 2, 2])),
    "no match": ("----", 2, Acceptance(2, [0, 0])),
    "early mismatch": ("-++++", 4, Acceptance(1, [0, 0, 0, 0])),
    "late mismatch": ("++-+++", 3, Acceptance(1, [1, 1, 0])),
    "mismatch at the last draft token": ("++-++-", 3, Acceptance(1, [1, 1, 0])),
    "bonus token decides nothing": ("++-++-", 2, Acceptance(2, [2, 2])),
    "text too short for a cycle": ("++", 2, Acceptance(0, [0, 0])),
    "empty text": ("", 2, Acceptance(0, [0, 0])),
}


@pytest.mark.parametrize("case", CASES)
def test_cycles_are_counted(case: str) -> None:
    agreements, num_draft_tokens, expected = CASES[case]

    assert count_acceptance([[mark == "+" for mark in agreements]], num_draft_tokens) == expected


def test_texts_are_counted_together() -> None:
    assert count_acceptance([[True] * 3, [False] * 3], 2) == Acceptance(2, [1, 1])


def test_shares_are_given_what_came_before() -> None:
    counted = Acceptance(num_cycles=10, num_accepted=[8, 4, 4, 0])

    assert counted.per_position == [0.8, 0.5, 1.0, 0.0]
    assert counted.mean_accepted_length == pytest.approx(1 + 16 / 10)


def test_a_position_never_reached_has_share_0() -> None:
    assert Acceptance(3, [0, 0]).per_position == [0.0, 0.0]


def test_without_a_cycle_there_is_no_length() -> None:
    with pytest.raises(ValueError, match="no cycle"):
        _ = Acceptance(0, [0]).mean_accepted_length
