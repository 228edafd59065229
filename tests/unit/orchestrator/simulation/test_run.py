"""Whole simulations: what comes out, and that it is always the same."""

from dataclasses import replace

import pytest

from orchestrator.simulation import ideal
from orchestrator.simulation.run import Outcome, simulate
from orchestrator.simulation.scenario import Scenario, scenarios
from orchestrator.simulation.streams import policy_of


def scenario(number: int, variant: str = "") -> Scenario:
    return next(each for each in scenarios() if each.number == number and each.variant in (variant, ""))


def rates(outcome: Outcome) -> list[float]:
    return [stream.tokens_per_s() for stream in outcome.streams]


def test_two_runs_are_the_same_to_the_last_digit() -> None:
    first, second = (simulate(scenario(10), policy_of("fixed", 4), 3.0) for _ in range(2))
    assert rates(first) == rates(second)
    assert first.decodes == second.decodes
    assert first.statistics == second.statistics


def test_another_seed_is_another_text() -> None:
    first, second = (simulate(scenario(1), policy_of("fixed", 4), 3.0, seed) for seed in (0, 1))
    assert rates(first) != rates(second)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_plain_decoding_takes_the_time_of_its_decodes(number: int) -> None:
    found = simulate(scenario(number), policy_of("plain"), 5.0)
    assert found.tokens_per_s == pytest.approx(ideal.plain(scenario(number)).tokens_per_s, rel=1e-4)


@pytest.mark.parametrize(
    ("number", "variant"), [(1, ""), (2, ""), (3, ""), (4, ""), (5, "acceptance 0.3"), (5, "acceptance 0.2")]
)
def test_the_best_number_reaches_the_ideal(number: int, variant: str) -> None:
    chosen = scenario(number, variant)
    best = ideal.without_overlap(chosen)
    found = simulate(chosen, policy_of("fixed", best.num_draft_tokens[0]), 12.0 + 60.0 * (number == 3))
    assert found.tokens_per_s == pytest.approx(best.tokens_per_s, rel=0.02)


def test_drafts_that_are_late_or_lost_cost_time_and_nothing_else() -> None:
    found = simulate(scenario(8), policy_of("fixed", 4), 20.0)
    statistics = found.statistics
    assert statistics.num_fallbacks > 0
    assert statistics.num_drafts["remote"] > 0
    # The text is the script's, whatever became of the drafts.
    assert found.tokens_per_s > 0


def test_streams_share_decodes() -> None:
    near = replace(scenario(1), round_trips_ms=[0.5] * 4)
    found = simulate(near, policy_of("fixed", 4), 5.0)
    assert found.sessions_per_decode > 3.5


def test_one_that_is_far_costs_the_others_little() -> None:
    far = scenario(10)
    with_far = simulate(far, policy_of("fixed", 4), 10.0)
    alone = simulate(replace(far, round_trips_ms=far.round_trips_ms[:3]), policy_of("fixed", 4), 10.0)
    assert sum(rates(with_far)[:3]) > 0.9 * sum(rates(alone))


def test_a_draft_that_is_never_right_costs_next_to_nothing() -> None:
    wrong = replace(scenario(1), acceptance=(0.0,))
    found = simulate(wrong, policy_of("auto"), 12.0)
    assert found.statistics.num_skipped_tokens > 0
    assert found.tokens_per_s > 0.98 * ideal.plain(wrong).tokens_per_s


@pytest.mark.parametrize("num_streams", [2, 3, 5])
def test_a_company_in_two_groups_is_quicker_whether_it_is_even_or_odd(num_streams: int) -> None:
    """Streams draft for as long as a decode takes, so that one group is decoded while the other drafts."""
    far = replace(scenario(1), round_trips_ms=[15.0] * num_streams)
    found = simulate(far, policy_of("auto"), 8.0)
    # All together, they come to 1.57, 1.55 and 1.45 times.
    assert found.tokens_per_s > 1.57 * ideal.plain(far).tokens_per_s
