"""The table: what each scenario gives with each policy, beside what there can be."""

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.simulation import ideal
from orchestrator.simulation.run import simulate
from orchestrator.simulation.scenario import Scenario
from orchestrator.simulation.streams import policy_of

POLICIES = ("plain", "fixed", "auto")
# Cycles of every stream: to choose a number by, and to tell what a policy gives. Of many streams as many together.
_NUM_TRIED, _NUM_TOLD, _MOST_STREAMS = 60, 600, 4
# The numbers of draft tokens that are tried at first; then those between the best one and its neighbours.
_FIRST_NUMBERS = (1, 2, 3, 4, 6, 8, 10, 13, 16, 20, 24)


@dataclass(frozen=True)
class Row:
    """What one policy gives in one scenario. Rates are in tokens/s of all streams together.

    `num_draft_tokens` is the number that is fixed, else the mean of what was drafted in a cycle. `achieved` is
    simulated; `ideal`, `plain` and `overlapped` are what formulas say: without overlap, without a draft, and of a chain
    that drafts while it is verified, where there is a formula for it.
    """

    scenario: int
    variant: str
    policy: str
    num_draft_tokens: float
    achieved: float
    ideal: float
    plain: float
    overlapped: float | None
    num_cycles: int
    sessions_per_decode: float


def rows_of(
    scenario: Scenario, policies: Sequence[str], num_draft_tokens: int | None = None, seed: int = 0
) -> list[Row]:
    """Simulate a scenario with each of the policies; `fixed` with the best number where none is given."""
    return [_row(scenario, policy, num_draft_tokens, seed) for policy in policies]


def best_number(scenario: Scenario, seed: int = 0) -> int:
    """Return the fixed number of draft tokens that gives most, found by trying."""
    tried: dict[int, float] = {}

    def attempt(number: int) -> float:
        if number not in tried:
            seconds = _seconds(scenario, _NUM_TRIED)
            tried[number] = simulate(scenario, policy_of("fixed", number), seconds, seed).tokens_per_s
        return tried[number]

    numbers = [number for number in _FIRST_NUMBERS if number <= scenario.most]
    best = max(numbers, key=attempt)
    place = numbers.index(best)
    between = range(numbers[max(0, place - 1)], numbers[min(len(numbers) - 1, place + 1)] + 1)
    return max(between, key=attempt)


def _row(scenario: Scenario, policy: str, num_draft_tokens: int | None, seed: int) -> Row:
    number = 0
    if policy == "fixed":
        number = num_draft_tokens or best_number(scenario, seed)
    outcome = simulate(scenario, policy_of(policy, number), _seconds(scenario, _NUM_TOLD), seed)
    statistics, overlapped = outcome.statistics, ideal.overlapped(scenario)
    return Row(
        scenario.number,
        scenario.variant,
        policy,
        number or round(statistics.num_draft_tokens.total() / max(1, statistics.num_cycles), 2),
        round(outcome.tokens_per_s, 3),
        round(ideal.without_overlap(scenario).tokens_per_s, 3),
        round(ideal.plain(scenario).tokens_per_s, 3),
        None if overlapped is None else round(overlapped.tokens_per_s, 3),
        statistics.num_cycles,
        round(outcome.sessions_per_decode, 2),
    )


def _seconds(scenario: Scenario, num_cycles: int) -> float:
    """Return how long so many cycles take in virtual time, in whole periods where a scenario has some."""
    best = ideal.without_overlap(scenario)
    phases = zip(scenario.acceptance, best.num_draft_tokens, strict=False)
    # Every phase is as many tokens long.
    tokens = len(scenario.acceptance) / sum(1 / ideal.expected_tokens(*phase) for phase in phases)
    each = num_cycles / min(scenario.num_streams, _MOST_STREAMS)
    seconds = each * tokens * scenario.num_streams / best.tokens_per_s
    period_s = scenario.away_every_s
    return seconds if not period_s else period_s * max(1, round(seconds / period_s))
