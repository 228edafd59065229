"""How many tokens a second there can be: what a simulation is compared with. Pure, and nothing in here is simulated.

Everybody knows the best number from the beginning, nobody waits but for what is named, and sessions of one kind move
together. With an acceptance of a, n draft tokens bring E(n) = (1 - a^(n+1)) / (1 - a) tokens (Leviathan and others
2023, arXiv 2211.17192, equation 1).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.simulation.scenario import Scenario


@dataclass(frozen=True)
class Ideal:
    """Tokens/s of all streams, with the numbers of draft tokens that give them, one for each phase or state."""

    tokens_per_s: float
    num_draft_tokens: Sequence[int]


def expected_tokens(acceptance: float, num_draft_tokens: int) -> float:
    """Return the tokens that one cycle commits in expectation."""
    return sum(acceptance**position for position in range(num_draft_tokens + 1))


def plain(scenario: Scenario) -> Ideal:
    """Return what decoding without a draft gives."""
    return _turns(scenario, 1.0, 0)


def without_overlap(scenario: Scenario) -> Ideal:
    """Return the best where a stream drafts, then verifies: with a number for each phase where acceptance changes.

    Many streams go all together or in groups that take turns, each of which drafts beside the decodes of the others. A
    stream that is far decodes plainly with the others or drafts by itself. Whatever is best is taken.
    """
    if len(set(scenario.round_trips_ms)) > 1:
        return _with_far_streams(scenario)
    best = [_best_turns(scenario, rate) for rate in scenario.acceptance]
    # Each phase is as many tokens long.
    rate = len(best) / sum(1 / each.tokens_per_s for each in best)
    return Ideal(rate, [each.num_draft_tokens[0] for each in best])


def overlapped(scenario: Scenario) -> Ideal | None:
    """Return the best of a chain that drafts on while it is verified; None where there is no formula.

    While n draft tokens are verified, the bonus token after them and the next draft are guessed. All right (chance
    a^(n+1)), the next cycle begins with its verification, once that draft is there (hit); else it begins with a draft
    (miss). The numbers are those after a miss and after a hit, found by trying all.
    """
    is_simple = len({*scenario.round_trips_ms}) == 1 and len(scenario.acceptance) == 1
    if not is_simple or scenario.late_one_in or scenario.max_sessions:
        return None
    numbers = range(1, scenario.most + 1)
    return max(
        (Ideal(_chain(scenario, miss, hit), [miss, hit]) for miss in numbers for hit in numbers),
        key=lambda ideal: ideal.tokens_per_s,
    )


def _best_turns(scenario: Scenario, acceptance: float) -> Ideal:
    options = (_turns(scenario, acceptance, number) for number in range(scenario.most + 1))
    return max(options, key=lambda ideal: ideal.tokens_per_s)


def _turns(scenario: Scenario, acceptance: float, num_draft_tokens: int) -> Ideal:
    """Return the rate of equal streams, in the number of groups that is best."""
    streams = scenario.num_streams
    least = -(-streams // (scenario.max_sessions or streams))
    groups = [number for number in range(least, streams + 1) if streams % number == 0]
    rates = [_rate(scenario, acceptance, num_draft_tokens, number) for number in groups]
    return Ideal(max(rates), [num_draft_tokens])


def _rate(scenario: Scenario, acceptance: float, num_draft_tokens: int, num_groups: int) -> float:
    """Return the rate of equal streams in groups, each of which drafts beside the decodes of the others.

    The groups take turns. Each drafts together; all do, where the draft has no time for each by itself.
    """
    size = scenario.num_streams // num_groups
    verify_ms = scenario.target.decode_ms(size, size * (num_draft_tokens + 1), 0)
    between_ms = scenario.target_round_trip_ms + scenario.orchestrator_ms + _draft_ms(scenario, size, num_draft_tokens)
    streams = scenario.num_streams
    drafting_ms = num_draft_tokens * scenario.draft.decode_ms(streams, streams, 0)
    cycle_ms = max(num_groups * verify_ms, verify_ms + between_ms, drafting_ms)
    tokens = expected_tokens(acceptance, num_draft_tokens)
    if scenario.late_one_in and num_draft_tokens:
        return _with_losses(scenario, tokens, cycle_ms)
    return 1e3 * streams * tokens / cycle_ms


def _draft_ms(scenario: Scenario, num_sessions: int, num_draft_tokens: int) -> float:
    if not num_draft_tokens:
        return 0.0
    token_ms = scenario.draft.decode_ms(num_sessions, num_sessions, 0)
    return scenario.round_trips_ms[0] + num_draft_tokens * token_ms


def _with_losses(scenario: Scenario, tokens: float, cycle_ms: float) -> float:
    """Return the rate where whoever asks knows beforehand which requests are late, and when the draft is away."""
    plain_ms = scenario.target.decode_ms(1, 1, 0)
    one_in = scenario.late_one_in
    there = 1e3 * ((one_in - 1) * tokens + 1) / ((one_in - 1) * cycle_ms + plain_ms)
    away = scenario.away_s / scenario.away_every_s
    return (1 - away) * there + away * 1e3 / plain_ms


def _with_far_streams(scenario: Scenario) -> Ideal:
    """Return the best of streams at two distances: those that are near move together."""
    near_ms = min(scenario.round_trips_ms)
    far_ms = [each for each in scenario.round_trips_ms if each > near_ms]
    num_near, num_far = scenario.num_streams - len(far_ms), len(far_ms)
    options = [
        Ideal(rate, [number, far_number])
        for number in range(scenario.most + 1)
        for far_number, rate in _far_rates(scenario, number, num_near, num_far, far_ms[0])
    ]
    return max(options, key=lambda ideal: ideal.tokens_per_s)


def _far_rates(
    scenario: Scenario, number: int, num_near: int, num_far: int, far_ms: float
) -> Iterator[tuple[int, float]]:
    """Yield the rate with each number that far streams may draft, where the others draft `number`."""
    acceptance = scenario.acceptance[0]
    near_tokens = num_near * expected_tokens(acceptance, number)
    for far_number in range(scenario.most + 1):
        far_tokens = expected_tokens(acceptance, far_number)
        # In how many of the others' cycles a far one has a part; it waits for a decode half a cycle long.
        share = 1.0
        if far_number:
            cycle_ms = _near_cycle_ms(scenario, number, num_near, 0.0)
            draft_ms = far_ms + far_number * scenario.draft.decode_ms(1, 1, 0)
            share = cycle_ms / (draft_ms + 1.5 * cycle_ms)
        # All rows of a decode are as many as the one with most has.
        num_padded_rows = num_near * max(0, far_number - number)
        cycle_ms = _near_cycle_ms(
            scenario, number, num_near, share * (num_far * (max(number, far_number) + 1) + num_padded_rows)
        )
        yield far_number, 1e3 * (near_tokens + num_far * share * far_tokens) / cycle_ms


def _near_cycle_ms(scenario: Scenario, number: int, num_near: int, num_far_rows: float) -> float:
    rows = num_near * (number + 1) + num_far_rows
    verify_ms = scenario.target.decode_ms(num_near, round(rows), 0)
    return verify_ms + (number and min(scenario.round_trips_ms) + number * scenario.draft.decode_ms(1, 1, 0))


def _chain(scenario: Scenario, miss: int, hit: int) -> float:
    """Return tokens/s of a chain that drafts `miss` tokens after a miss and `hit` after a hit."""
    acceptance, streams = scenario.acceptance[0], scenario.num_streams
    between_ms = scenario.target_round_trip_ms + scenario.orchestrator_ms
    verify_ms = {
        number: scenario.target.decode_ms(streams, streams * (number + 1), 0) + between_ms for number in (miss, hit)
    }
    ahead_ms = _draft_ms(scenario, streams, hit + 1)
    chance = {number: acceptance ** (number + 1) for number in (miss, hit)}
    # Of all cycles, those that begin after a hit: as many come to that state as leave it.
    share_hit = chance[miss] / (1 - chance[hit] + chance[miss])
    tokens = cycle_ms = 0.0
    for number, share in ((miss, 1 - share_hit), (hit, share_hit)):
        tokens += share * expected_tokens(acceptance, number)
        cycle_ms += share * (verify_ms[number] + chance[number] * max(0.0, ahead_ms - verify_ms[number]))
    cycle_ms += (1 - share_hit) * _draft_ms(scenario, streams, miss)
    return 1e3 * streams * tokens / cycle_ms
