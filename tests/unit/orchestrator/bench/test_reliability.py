"""What was predicted of draft tokens against what was seen, by cycles that tell it."""

from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.bench.cycles import Cycle, cycles_of
from orchestrator.bench.reliability import reliability, reliability_table, wilson
from tests.unit.orchestrator.bench.known import KnownSpans


def cycle(chances: Sequence[float], num_accepted: int, drafter: str = "remote") -> Cycle:
    return Cycle("a", 1, 0, 1, num_accepted + 1, None, None, drafter, chances)


def test_tokens_count_up_to_the_first_that_was_rejected() -> None:
    found = reliability([cycle([0.91, 0.93, 0.35, 0.05], 2), cycle([0.92], 1), cycle([0.31], 0)])
    (drafter,) = found["drafters"]
    assert [(each["least"], each["num_tried"], each["seen"]) for each in drafter["bins"]] == [
        (0.3, 2, 0.0),
        (0.9, 3, 1.0),
    ]
    assert [each["predicted"] for each in drafter["bins"]] == pytest.approx([0.33, 0.92])
    assert (drafter["drafter"], drafter["num_tried"], found["num_tried"]) == ("remote", 5, 5)


def test_the_calibration_error_is_the_mean_distance_by_tokens() -> None:
    found = reliability([*[cycle([0.75], 1)] * 3, cycle([0.75], 0), *[cycle([0.25], 1)] * 2])
    assert found["expected_calibration_error"] == pytest.approx((4 * 0.0 + 2 * 0.75) / 6)
    by_chance = (4 * (2 * 0.1875 / (4 * 3.14159265)) ** 0.5 + 2 * (2 * 0.1875 / (2 * 3.14159265)) ** 0.5) / 6
    assert found["error_by_chance"] == pytest.approx(by_chance)


def test_drafters_make_nothing_up_for_each_other() -> None:
    found = reliability([*[cycle([0.5], 1)] * 2, *[cycle([0.5], 0, "ngram")] * 2])
    assert [each["drafter"] for each in found["drafters"]] == ["remote", "ngram"]
    assert found["expected_calibration_error"] == pytest.approx(0.5)


def test_a_certain_token_is_in_the_last_bin() -> None:
    ((bin_,),) = (each["bins"] for each in reliability([cycle([1.0], 1)])["drafters"])
    assert (bin_["least"], bin_["most"]) == (0.9, 1.0)


@pytest.mark.parametrize(
    ("num_accepted", "num_tried", "expected"),
    [
        # Brown, Cai and DasGupta 2001, and by hand: 0 of 10 reaches 3.84 / 13.84.
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (5, 10, (0.2366, 0.7634)),
        (810, 1000, (0.7846, 0.8331)),
    ],
)
def test_the_interval_of_what_was_seen(num_accepted: int, num_tried: int, expected: tuple[float, float]) -> None:
    assert wilson(num_accepted, num_tried) == pytest.approx(expected, abs=1e-4)


def test_spans_without_chances_are_cycles_like_before_and_tell_nothing() -> None:
    cycles = cycles_of(KnownSpans("a").cycle(num_accepted=2))
    assert [(each.num_tokens, each.drafter, each.chances) for each in cycles] == [(3, "none", ())]
    assert reliability(cycles) == {}


def test_spans_with_chances_tell_them() -> None:
    (found,) = cycles_of(KnownSpans("a").cycle(num_accepted=1, drafter="ngram", chances=[0.5, 0.25]))
    assert (found.drafter, list(found.chances)) == ("ngram", [0.5, 0.25])


def test_the_table() -> None:
    cycles: list[Any] = [cycle([0.75], 1), cycle([0.75], 0), cycle([0.25], 1, "ngram")]
    lines = reliability_table(reliability(cycles)).splitlines()
    assert lines[0] == "| drafter | chance | tokens tried | predicted | seen (95 % interval) |"
    assert lines[2:4] == [
        "| remote | 0.7 to 0.8 | 2 | 0.750 | 0.500 (0.095 to 0.905) |",
        "| ngram | 0.2 to 0.3 | 1 | 0.250 | 1.000 (0.207 to 1.000) |",
    ]
    assert lines[-1] == (
        "Expected calibration error 0.417 (by chance alone 0.278). remote 0.250 (by chance alone 0.244) over 2 tokens. "
        "ngram 0.750 (by chance alone 0.345) over 1 tokens."
    )
