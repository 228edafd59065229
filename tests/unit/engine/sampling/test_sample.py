from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from services.engine.sampling import (
    LogitsError,
    SamplingParams,
    log_probabilities,
    sample,
    sample_rows,
    sample_with_confidence,
)
from services.engine.sampling.adjust import adjusted
from tests.unit.engine.sampling.candidates import candidates_of

INF = math.inf


def row_of(*logits: float) -> NDArray[np.float32]:
    return np.array(logits, np.float32)


def values_after(params: SamplingParams, logits: NDArray[np.float32], counts: dict[int, int]) -> list[float]:
    row = adjusted(logits, params, counts)
    values = row.dense.astype(np.float64)
    values[row.ids] = row.values
    return [float(value) for value in values]


def kept_by(params: SamplingParams, logits: NDArray[np.float32]) -> list[int]:
    return sorted(token for _, token in candidates_of(logits, params))


class TestGreedy:
    def test_takes_the_largest(self) -> None:
        assert sample(row_of(0, 3, -1), 0, SamplingParams(), []) == 1

    def test_ties_go_to_the_lowest_id(self) -> None:
        assert sample(row_of(1, 3, 3, 3), 0, SamplingParams(), []) == 1

    @pytest.mark.parametrize(("bias", "token"), [({0: 2.0}, 0), ({3: 2.0}, 1), ({1: -1.0}, 3), ({1: 0.0}, 1)])
    def test_ties_with_biased_tokens_go_to_the_lowest_id(self, bias: dict[int, float], token: int) -> None:
        """Token 0 and token 3 are raised to the 3 of token 1 in turn."""
        logits = row_of(1, 3, 0, 1) if 3 in bias or 0 in bias else row_of(1, 3, 0, 3)
        assert sample(logits, 0, SamplingParams(logit_bias=bias), []) == token

    def test_ignores_seed_position_and_truncation(self) -> None:
        logits = np.random.default_rng(1).normal(0, 1, 50).astype(np.float32)
        params = [SamplingParams(seed=seed, top_k=3, top_p=0.1, min_p=0.5) for seed in range(20)]
        assert {sample(logits, 7 * p.seed, p, []) for p in params} == {int(logits.argmax())}

    def test_margin_is_the_distance_to_the_second_logit_after_bias(self) -> None:
        logits = row_of(1, 4, 2)
        assert sample_with_confidence(logits, 0, SamplingParams(), [])[2] == 2
        assert sample_with_confidence(logits, 0, SamplingParams(logit_bias={2: 1.5}), [])[2] == 0.5
        assert sample_with_confidence(logits, 0, SamplingParams(logit_bias={2: 3}), [])[::2] == (2, 1.0)


class TestPenalties:
    """Against llama.cpp's arithmetic, by hand."""

    def test_repetition_divides_positive_and_multiplies_the_rest(self) -> None:
        params = SamplingParams(repetition_penalty=2.0)
        assert values_after(params, row_of(4, -4, 0, 4), {0: 1, 1: 3, 2: 1}) == [2, -8, 0, 4]

    def test_presence_counts_once_and_frequency_every_time(self) -> None:
        params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
        assert values_after(params, row_of(1, 1, 1), {0: 1, 1: 4}) == [0.25, -0.5, 1]

    def test_bias_comes_before_repetition_and_repetition_before_the_rest(self) -> None:
        params = SamplingParams(repetition_penalty=2.0, presence_penalty=1.0, logit_bias={0: 5.0, 1: 7.0})
        assert values_after(params, row_of(-1, 0, 0), {0: 1}) == [(-1 + 5) / 2 - 1, 7, 0]

    @pytest.mark.parametrize(("last_n", "token"), [(0, 0), (1, 0), (2, 1), (3, 1)])
    def test_window_is_the_last_n_tokens(self, last_n: int, token: int) -> None:
        params = SamplingParams(presence_penalty=1.0, penalty_last_n=last_n)
        assert sample(row_of(1.5, 1.0, 0.0), 9, params, [0, 0, 2]) == token

    @pytest.mark.parametrize("last_n", [1, 2, 5, 100])
    @pytest.mark.parametrize("temperature", [0.0, 0.8])
    def test_draft_tokens_move_the_window_on(self, last_n: int, temperature: float) -> None:
        """The draft proposes the best token again and again, which the penalty pushes down each time."""
        logits = np.tile(np.arange(10) / 2, (6, 1)).astype(np.float32)
        history, draft_tokens = [0, 9, 0, 1, 2, 3, 4, 5], [9, 8, 9, 9, 9]
        params = SamplingParams(temperature, frequency_penalty=2.0, repetition_penalty=1.3, penalty_last_n=last_n)
        singly = [
            sample(logits[index], 8 + index, params, history + draft_tokens[:index]) for index in range(len(logits))
        ]
        assert sample_rows(logits, 8, params, history, draft_tokens).tolist() == singly
        assert sample_rows(logits, 8, params, np.array(history[-last_n:]), np.array(draft_tokens)).tolist() == singly
        assert singly != [sample(row, 8 + index, params, history) for index, row in enumerate(logits)]

    def test_tokens_that_only_the_other_model_has_are_passed_over(self) -> None:
        params = SamplingParams(presence_penalty=1.0, logit_bias={12: 5.0})
        assert sample(row_of(1, 2, 0), 3, params, [11, 12, 11]) == 1

    def test_logits_are_left_as_they_were(self) -> None:
        logits = row_of(1, 2, 3)
        logits.flags.writeable = False
        params = SamplingParams(
            0.8, presence_penalty=1.0, logit_bias={0: 1.0}, top_p=0.9, suppressed_tokens=frozenset({2})
        )
        sample(logits, 0, params, [0, 1])
        assert logits.tolist() == [1, 2, 3]


class TestTruncation:
    @pytest.mark.parametrize(
        ("top_k", "kept"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
    )
    def test_top_k_breaks_ties_towards_the_lower_id(self, top_k: int, kept: list[int]) -> None:
        assert kept_by(SamplingParams(1.0, top_k=top_k), row_of(0, 5, 5, 5)) == kept

    @pytest.mark.parametrize(
        ("top_p", "kept"),
        [
            (0.1, [1]),
            (0.25, [1]),
            (0.26, [1, 2]),
            (0.5, [1, 2]),
            (0.51, [1, 2, 3]),
            (0.75, [1, 2, 3]),
            (0.76, [0, 1, 2, 3]),
        ],
    )
    def test_top_p_is_reached_exactly_and_breaks_ties_towards_the_lower_id(self, top_p: float, kept: list[int]) -> None:
        """Tokens 0 to 3 hold a quarter each, token 0 a trifle less."""
        assert kept_by(SamplingParams(1.0, top_p=top_p), row_of(-1e-6, 0, 0, 0)) == kept

    def test_top_p_renormalises_after_top_k(self) -> None:
        """Of ten equal tokens, top-k leaves four, and half of their mass is two."""
        assert kept_by(SamplingParams(1.0, top_k=4, top_p=0.5), np.zeros(10, np.float32)) == [0, 1]

    def test_min_p_is_relative_to_the_best_and_inclusive(self) -> None:
        logits = row_of(0, math.log(0.5), math.log(0.26), math.log(0.24), -INF)
        assert kept_by(SamplingParams(1.0, min_p=0.25), logits) == [0, 1, 2]
        assert kept_by(SamplingParams(2.0, min_p=0.5), logits) == [0, 1, 2]

    def test_min_p_is_no_part_of_the_mass_that_top_p_counts(self) -> None:
        """Half of all the mass is five tokens; half of what min-p alone would leave, one."""
        logits = np.array([math.log(2.0), *[0.0] * 10], np.float32)
        assert kept_by(SamplingParams(1.0, top_p=0.5, min_p=0.9), logits) == [0]
        assert kept_by(SamplingParams(1.0, top_p=0.5, min_p=0.4), logits) == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize(
        "params", [SamplingParams(1.0, top_k=9), SamplingParams(1.0, top_p=0.99), SamplingParams(1.0, min_p=1e-9)]
    )
    def test_impossible_tokens_are_never_candidates(self, params: SamplingParams) -> None:
        assert set(kept_by(params, row_of(-INF, 1, -INF, 1))) == {1, 3}

    def test_comes_after_temperature(self) -> None:
        logits = row_of(1, 0)
        assert kept_by(SamplingParams(0.1, top_p=0.9), logits) == [0]
        assert kept_by(SamplingParams(10.0, top_p=0.9), logits) == [0, 1]


class TestNoise:
    def test_same_arguments_same_token(self) -> None:
        logits = np.zeros(1000, np.float32)
        params = SamplingParams(1.0, seed=5)
        assert len({sample(logits, 3, params, []) for _ in range(5)}) == 1

    def test_depends_on_seed_and_on_position(self) -> None:
        logits = np.zeros(1000, np.float32)
        assert len({sample(logits, 3, SamplingParams(1.0, seed=seed), []) for seed in range(50)}) > 40
        assert len({sample(logits, position, SamplingParams(1.0), []) for position in range(50)}) > 40

    def test_a_longer_vocabulary_of_impossible_tokens_changes_nothing(self) -> None:
        """Draft and target may pad their vocabularies differently."""
        logits = np.random.default_rng(2).normal(0, 1, (1, 200)).astype(np.float32)
        padded = np.pad(logits, ((0, 0), (0, 56)), constant_values=-INF)
        for position in range(50):
            params = SamplingParams(0.9, top_p=0.9, seed=1)
            assert sample_rows(logits, position, params, [], []) == sample_rows(padded, position, params, [], [])

    def test_margin_is_infinite_without_a_second_candidate(self) -> None:
        logits = row_of(0, 2, 1)
        for params in (SamplingParams(1.0, top_k=1), SamplingParams(1.0, top_p=0.1)):
            assert sample_with_confidence(logits, 0, params, [])[::2] == (1, INF)
        for params in (SamplingParams(), SamplingParams(1.0)):
            assert sample_with_confidence(row_of(-INF, 2, -INF), 0, params, [])[::2] == (1, INF)


class TestMask:
    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_the_only_token_that_is_not_suppressed_is_chosen(self, temperature: float) -> None:
        logits = np.zeros((20, 8), np.float32)
        logits[:, 0] = 50
        for only in range(8):
            suppressed = frozenset(range(8)) - {only}
            params = SamplingParams(
                temperature, logit_bias={0: 100.0}, presence_penalty=-1.0, suppressed_tokens=suppressed
            )
            tokens = sample_rows(logits, 0, params, [0, 1], [0] * 19)
            assert tokens.tolist() == [only] * 20

    def test_everything_suppressed_is_an_error(self) -> None:
        with pytest.raises(LogitsError, match="no token can be chosen"):
            sample(row_of(1, 2), 0, SamplingParams(suppressed_tokens=frozenset({0, 1})), [])


@pytest.mark.parametrize("logits", [row_of(1, math.nan, 2), row_of(1, INF), row_of(-INF, -INF)])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(1.0),
        SamplingParams(1.0, top_k=2),
        SamplingParams(1.0, top_p=0.5),
        SamplingParams(1.0, min_p=0.5),
        SamplingParams(logit_bias={1: 1.0}),
        SamplingParams(1.0, logit_bias={0: 1.0, 1: 1.0}),
    ],
)
def test_logits_that_are_no_logits_are_an_error(logits: NDArray[np.float32], params: SamplingParams) -> None:
    with pytest.raises(LogitsError, match="no token can be chosen"):
        sample(logits, 0, params, [])


def test_too_few_draft_tokens_are_an_error() -> None:
    with pytest.raises(ValueError, match="3 rows follow 2 draft tokens, but there are 1"):
        sample_rows(np.zeros((3, 4), np.float32), 0, SamplingParams(), [], [1])


class TestProbabilities:
    def test_probability_is_of_the_raw_logits(self) -> None:
        logits = row_of(math.log(0.5), math.log(0.25), math.log(0.25))
        params = SamplingParams(0.3, top_k=1, logit_bias={1: 50.0}, presence_penalty=1.0)
        token, probability, _ = sample_with_confidence(logits, 0, params, [0])
        assert token == 1
        assert probability == pytest.approx(0.25, rel=1e-6)

    def test_log_probabilities(self) -> None:
        probabilities = [0.125, 0.5, 0.0, 0.125, 0.25]
        logits = row_of(*[math.log(share) + 7 if share else -INF for share in probabilities])
        chosen, ids, top = log_probabilities(logits, 4, 4)
        assert chosen == pytest.approx(math.log(0.25), abs=1e-6)
        assert ids.tolist() == [1, 4, 0, 3]
        np.testing.assert_allclose(np.exp(top), [0.5, 0.25, 0.125, 0.125], rtol=1e-6)

    def test_no_top_tokens(self) -> None:
        _, ids, top = log_probabilities(row_of(1, 2), 0, 0)
        assert (ids.tolist(), top.tolist()) == ([], [])

    def test_large_rows_agree_with_float64(self) -> None:
        logits = np.random.default_rng(3).normal(0, 4, 50_000).astype(np.float32)
        chosen, ids, top = log_probabilities(logits, 17, 20)
        exact = logits.astype(np.float64)
        exact -= np.log(np.exp(exact - exact.max()).sum()) + exact.max()
        assert ids.tolist() == np.argsort(-exact, kind="stable")[:20].tolist()
        np.testing.assert_allclose([chosen, *top], [exact[17], *exact[ids]], rtol=0, atol=1e-6)
