"""The formulas, at figures that were worked out by hand."""

import pytest

from orchestrator.simulation import ideal
from orchestrator.simulation.scenario import Scenario, scenarios


def scenario(number: int, variant: str = "") -> Scenario:
    return next(each for each in scenarios() if each.number == number and each.variant in (variant, ""))


def test_tokens_of_a_cycle() -> None:
    assert ideal.expected_tokens(0.8, 5) == pytest.approx((1 - 0.8**6) / 0.2)
    assert ideal.expected_tokens(0.0, 5) == 1
    assert ideal.expected_tokens(1.0, 5) == 6


@pytest.mark.parametrize(
    ("number", "variant", "plain", "best", "num_draft_tokens"),
    [
        (1, "", 49.3, 114.2, [5]),
        (2, "", 49.3, 89.7, [7]),
        (3, "", 19.9, 40.3, [10]),
        (4, "", 48.8, 63.4, [2]),
        (5, "acceptance 0.3", 49.3, 55.1, [1]),
        (5, "acceptance 0.2", 49.3, 50.8, [1]),
        (7, "", 357.1, 859.0, [6]),
    ],
)
def test_without_overlap(number: int, variant: str, plain: float, best: float, num_draft_tokens: list[int]) -> None:
    found = ideal.without_overlap(scenario(number, variant))
    assert ideal.plain(scenario(number, variant)).tokens_per_s == pytest.approx(plain, abs=0.05)
    assert (round(found.tokens_per_s, 1), list(found.num_draft_tokens)) == (best, num_draft_tokens)


def test_a_chain_that_drafts_while_it_is_verified() -> None:
    found = ideal.overlapped(scenario(1))
    assert found is not None
    assert (round(found.tokens_per_s, 1), list(found.num_draft_tokens)) == (130.7, [3, 9])


def test_phases_have_a_number_each() -> None:
    found = ideal.without_overlap(scenario(6))
    assert found.num_draft_tokens[0] > found.num_draft_tokens[1]
