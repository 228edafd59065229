"""What target and draft say without a model."""

import pytest

from orchestrator.simulation.script import Script


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.8, 0.943, 1.0])
def test_guesses_are_right_at_the_rate(rate: float) -> None:
    script = Script(1, 0, [rate])
    hits = [script.guess(position).is_right for position in range(5000)]
    assert sum(hits) / len(hits) == pytest.approx(rate, abs=0.01)


def test_runs_of_right_guesses_are_as_long_as_by_chance() -> None:
    script = Script(1, 0, [0.8])
    hits = "".join("+-"[not script.guess(position).is_right] for position in range(20_000))
    runs = [len(run) for run in hits.split("-")[:-1]]
    for length in (1, 3, 8):
        assert sum(run >= length for run in runs) / len(runs) == pytest.approx(0.8**length, abs=0.01)


def test_of_guesses_with_a_chance_that_share_is_right() -> None:
    script = Script(1, 0, [0.7])
    guesses = [script.guess(position) for position in range(20_000)]
    for low in (0.5, 0.6, 0.7, 0.8):
        alike = [guess for guess in guesses if low <= guess.chance < low + 0.1]
        mean_chance = sum(guess.chance for guess in alike) / len(alike)
        assert sum(guess.is_right for guess in alike) / len(alike) == pytest.approx(mean_chance, abs=0.03)


def test_the_rate_changes_with_the_phase() -> None:
    script = Script(1, 0, [1.0, 0.0], phase_length=3)
    assert [script.guess(position).is_right for position in range(8)] == [True] * 3 + [False] * 3 + [True] * 2


def test_the_same_seed_says_the_same_in_any_order() -> None:
    first, second = Script(7, 2, [0.8]), Script(7, 2, [0.8])
    backwards = [second.draft_token(position) for position in reversed(range(200))]
    assert [first.draft_token(position) for position in range(200)] == backwards[::-1]
    other = Script(7, 3, [0.8])
    assert [first.token(position) for position in range(200)] != [other.token(position) for position in range(200)]


def test_a_draft_token_is_the_targets_where_the_guess_is_right() -> None:
    script = Script(3, 0, [0.5])
    for position in range(200):
        assert (script.draft_token(position) == script.token(position)) == script.guess(position).is_right
