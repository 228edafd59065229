"""Sampled tokens follow the distribution that was asked for; draft and target agree as often as theory says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from services.engine.sampling import SamplingParams, sample
from services.engine.sampling.adjust import has_penalties

NUM_DRAWS = 50_000
LOGITS = np.random.default_rng(7).normal(0, 1.5, 40).astype(np.float32)
HISTORY = [int(LOGITS.argmax()), 3, 3, 5]


def target_distribution(params: SamplingParams) -> NDArray[np.float64]:
    """Probabilities [vocabulary], straight from the definition of each parameter."""
    values = LOGITS.astype(np.float64)
    for token, bias in params.logit_bias.items():
        values[token] += bias
    if has_penalties(params):
        for token in set(HISTORY):
            values[token] *= 1 / params.repetition_penalty if values[token] > 0 else params.repetition_penalty
            values[token] -= params.presence_penalty + params.frequency_penalty * HISTORY.count(token)
    shares = np.exp(values / params.temperature)
    descending = np.argsort(-shares)
    if params.top_k:
        shares[descending[params.top_k :]] = 0
    mass_before = np.cumsum(shares[descending]) - shares[descending]
    shares[descending[mass_before >= params.top_p * shares.sum()]] = 0
    shares[shares < params.min_p * shares.max()] = 0
    return np.asarray(shares / shares.sum())


def chi_square_deviation(counts: NDArray[np.int64], shares: NDArray[np.float64]) -> float:
    """How many standard deviations Pearson's statistic lies above its mean (Wilson and Hilferty's approximation)."""
    expected = shares * counts.sum()
    is_rare = expected < 5
    observed = np.append(counts[~is_rare], counts[is_rare].sum())
    expected = np.append(expected[~is_rare], expected[is_rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    freedom = len(expected) - 1
    statistic = float(((observed - expected) ** 2 / expected).sum())
    spread = 2 / (9 * freedom)
    return (math.cbrt(statistic / freedom) - 1 + spread) / math.sqrt(spread)


def drawn_counts(params: SamplingParams, axis: str) -> NDArray[np.int64]:
    if axis == "position":
        tokens = [sample(LOGITS, position, params, HISTORY) for position in range(NUM_DRAWS)]
    else:
        fields = {name: getattr(params, name) for name in params.__dataclass_fields__}
        tokens = [sample(LOGITS, 5, SamplingParams(**fields | {"seed": seed}), HISTORY) for seed in range(NUM_DRAWS)]
    return np.bincount(tokens, minlength=LOGITS.size)


CASES = {
    "temperature 0.8": SamplingParams(0.8, seed=11),
    "temperature 2.5": SamplingParams(2.5, seed=13),
    "top-k": SamplingParams(1.0, top_k=7, seed=14),
    "top-p": SamplingParams(0.8, top_p=0.9, seed=15),
    "min-p": SamplingParams(1.2, min_p=0.1, seed=16),
    "top-k, top-p, min-p": SamplingParams(1.5, top_k=20, top_p=0.85, min_p=0.08, seed=17),
    "penalties and bias": SamplingParams(
        0.9, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.3, logit_bias={5: 2.5, 9: -3.0}, seed=18
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_tokens_follow_the_distribution(name: str) -> None:
    params = CASES[name]
    counts, shares = drawn_counts(params, "position"), target_distribution(params)
    assert counts[shares == 0].sum() == 0
    assert abs(chi_square_deviation(counts, shares)) < 3.5
    # The test has teeth: a temperature that is off by 20 % would be seen.
    wrong = shares ** (1 / 1.2)
    assert chi_square_deviation(counts, wrong / wrong.sum()) > 5


def test_tokens_follow_the_distribution_over_seeds_too() -> None:
    params = CASES["temperature 0.8"]
    assert abs(chi_square_deviation(drawn_counts(params, "seed"), target_distribution(params))) < 3.5


def test_neighbouring_positions_are_independent() -> None:
    """Pairs of tokens at positions 2i and 2i + 1 follow the product of their distributions."""
    params = SamplingParams(1.0, top_k=6, seed=19)
    shares = target_distribution(params)
    tokens = np.array([sample(LOGITS, position, params, []) for position in range(NUM_DRAWS)])
    pairs = np.bincount(tokens[::2] * LOGITS.size + tokens[1::2], minlength=LOGITS.size**2)
    assert abs(chi_square_deviation(pairs, np.outer(shares, shares).ravel())) < 3.5


def test_draft_and_target_agree_as_often_as_shared_noise_allows() -> None:
    """For distributions t and d, both choose j with probability 1 / sum_k max(t_k / t_j, d_k / d_j)."""
    num_draws = 20_000
    draft_logits = (LOGITS + np.random.default_rng(8).normal(0, 0.7, LOGITS.size)).astype(np.float32)
    params = SamplingParams(1.0, seed=20)
    target, draft = (np.exp(row.astype(np.float64)) for row in (LOGITS, draft_logits))
    target, draft = target / target.sum(), draft / draft.sum()
    ratios = np.maximum(target[None, :] / target[:, None], draft[None, :] / draft[:, None])
    expected = float((1 / ratios.sum(axis=1)).sum())
    num_equal = sum(
        sample(LOGITS, position, params, []) == sample(draft_logits, position, params, [])
        for position in range(num_draws)
    )
    deviation = math.sqrt(expected * (1 - expected) / num_draws)
    assert abs(num_equal / num_draws - expected) < 3.5 * deviation
    # Independent noise would agree far less often, the optimal coupling a little more often.
    assert float((target * draft).sum()) + 0.1 < expected < float(np.minimum(target, draft).sum())
