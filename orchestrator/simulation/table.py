"""The table: what each scenario gives with each policy, beside what there can be."""

from dataclasses import dataclass

from orchestrator.simulation import ideal
from orchestrator.simulation.run import simulate
from orchestrator.simulation.scenario import Scenario
from orchestrator.simulation.streams import policy_of

# The numbers of draft tokens that are tried at first; then those between the best one and its neighbours.
_FIRST_NUMBERS = (1, 2, 3, 4, 6, 9, 13, 18, 24)
# Of so many of them it is found out in full which is best.
_NUM_FINALISTS = 2


@dataclass(frozen=True)
class _Length:
    """How long a simulation is: so many cycles of all streams together, but no fewer of each."""

    num_cycles: int
    num_least: int

    def seconds(self, scenario: Scenario) -> float:
        """Return the virtual time that they take at best, in whole periods where a scenario has some."""
        best = ideal.without_overlap(scenario)
        phases = zip(scenario.acceptance, best.num_draft_tokens, strict=False)
        # Every phase is as many tokens long.
        tokens = len(scenario.acceptance) / sum(1 / ideal.expected_tokens(*phase) for phase in phases)
        num_cycles = max(self.num_cycles / scenario.num_streams, self.num_least) * len(scenario.acceptance)
        seconds = num_cycles * tokens * scenario.num_streams / best.tokens_per_s
        period_s = scenario.away_every_s
        return seconds if not period_s else period_s * max(1, round(seconds / period_s))


# To choose a number by; to tell what a policy gives; and where nothing is left to chance.
_TRIAL, _FULL, _PLAIN = _Length(80, 20), _Length(400, 60), _Length(80, 20)


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


def row_of(scenario: Scenario, policy: str, num_draft_tokens: int | None = None, seed: int = 0) -> Row:
    """Simulate a scenario with one of the policies; `fixed` with the best number where none is given."""
    if policy == "plain":
        return _row(scenario, policy, 0, _PLAIN, seed)
    if policy == "auto":
        return _row(scenario, policy, 0, _FULL, seed)
    numbers = _finalists(scenario, seed) if num_draft_tokens is None else [num_draft_tokens]
    rows = [_row(scenario, policy, number, _FULL, seed) for number in numbers]
    return max(rows, key=lambda row: row.achieved)


def _finalists(scenario: Scenario, seed: int) -> list[int]:
    """Return the fixed numbers of draft tokens that give most in short simulations."""
    seconds = _TRIAL.seconds(scenario)
    tried: dict[int, float] = {}

    def attempt(number: int) -> float:
        if number not in tried:
            tried[number] = simulate(scenario, policy_of("fixed", number), seconds, seed).tokens_per_s
        return tried[number]

    numbers = [number for number in _FIRST_NUMBERS if number <= scenario.most]
    for place, number in enumerate(numbers):
        attempt(number)
        # What has fallen twice does not rise again.
        if place > 1 and max(attempt(each) for each in numbers[place - 1 : place + 1]) < max(tried.values()):
            break
    place = numbers.index(max(tried, key=attempt))
    # Above the last of them there are those up to the most that is tried at all.
    above = numbers[place + 1] if place + 1 < len(numbers) else scenario.most
    for number in range(numbers[max(0, place - 1)], above + 1):
        attempt(number)
    return sorted(tried, key=attempt, reverse=True)[:_NUM_FINALISTS]


def _row(scenario: Scenario, policy: str, number: int, length: _Length, seed: int) -> Row:
    outcome = simulate(scenario, policy_of(policy, number), length.seconds(scenario), seed)
    statistics, overlapped = outcome.statistics, ideal.overlapped(scenario)
    drafted = statistics.num_draft_tokens.total() / max(1, statistics.num_cycles)
    return Row(
        scenario.number,
        scenario.variant,
        policy,
        round(drafted, 2) if policy == "auto" else number,
        round(outcome.tokens_per_s, 3),
        round(ideal.without_overlap(scenario).tokens_per_s, 3),
        round(ideal.plain(scenario).tokens_per_s, 3),
        None if overlapped is None else round(overlapped.tokens_per_s, 3),
        statistics.num_cycles,
        round(outcome.sessions_per_decode, 2),
    )
