"""The fast sampler, compiled and not, against the reference: every choice must be the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from services.engine.sampling import (
    SamplingParams,
    kernel,
    noise,
    reference,
    sample,
    sample_rows,
    sample_with_confidence,
)

NUM_ROWS = 3


def random_row(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """One of many kinds of row, hard ones among them."""
    row = rng.normal(0, 3, size)
    match rng.integers(9):
        case 0:  # all equal
            row = np.full(size, rng.choice([0.0, -7.0, 1e4]))
        case 1:  # many ties
            row = rng.integers(-3, 4, size).astype(float)
        case 2:
            row = rng.uniform(-1e4, 1e4, size)
        case 3:  # most impossible
            row[rng.random(size) < 0.9] = -np.inf
            row[rng.integers(size)] = 1.0
        case 4:  # one possible
            row = np.full(size, -np.inf)
            row[rng.integers(size)] = -1e4
        case 5:
            row = rng.normal(0, 0.01, size)
        case 6:  # peaked
            row[rng.integers(size)] = 30.0
        case 7:  # up to the ends of float32: sums and quotients overflow there
            row = rng.choice([1e20, -1e20, 3e38, -3e38, 0.0, 1e-40], size)
    return row.astype(np.float32)


def random_params(rng: np.random.Generator, size: int) -> SamplingParams:
    """Each step is on in some of them, at ordinary and at extreme values."""

    def pick(default: float, *others: float) -> float:
        return float(rng.choice(others)) if rng.random() < 0.4 else default

    has_bias = rng.random() < 0.4
    params = SamplingParams(
        temperature=float(rng.choice([0, 1e-6, 1e-3, 0.2, 0.8, 1, 2, 100])),
        top_k=int(pick(0, 1, 2, 5, 40, size, size + 5)),
        top_p=pick(1.0, 1e-9, 0.1, 0.25, 0.3, 0.5, 0.9, 0.95, 0.999, 1 - 1e-12),
        min_p=pick(0.0, 1e-30, 0.01, 0.05, 0.5, 0.999),
        repetition_penalty=pick(1.0, 0.5, 1.1, 100),
        presence_penalty=pick(0.0, 0.5, -100),
        frequency_penalty=pick(0.0, 0.3, 2),
        penalty_last_n=int(rng.choice([0, 1, 5, 64, 1000])),
        logit_bias={int(rng.integers(size)): pick(0.5, -100, 100, 1 / 3) for _ in range(5)} if has_bias else {},
        seed=int(rng.integers(0, 2**64, dtype=np.uint64)),
    )
    params.validate(size)
    return params


def check_random_requests(rng: np.random.Generator, sizes: list[int], num_requests: int) -> None:
    for _ in range(num_requests):
        size = int(rng.choice(sizes))
        params = random_params(rng, size)
        logits = np.stack([random_row(rng, size) for _ in range(NUM_ROWS)])
        tokens = rng.integers(0, size, rng.integers(NUM_ROWS, 80)).tolist()
        history, draft_tokens = tokens[: 1 - NUM_ROWS], tokens[1 - NUM_ROWS :]
        position = int(rng.integers(2**31))
        if rng.random() < 0.2:
            suppressed = np.flatnonzero(rng.random(size) < 0.5).tolist()
            params = replace(params, suppressed_tokens=frozenset(suppressed) - set(logits.argmax(axis=1).tolist()))
        expected = []
        for index, row in enumerate(logits.tolist()):
            before = history + draft_tokens[:index]
            expected.append(reference.sample(row, position + index, params, before))
            token, probability, margin = sample_with_confidence(logits[index], position + index, params, before)
            assert token == expected[-1], params
            assert 0 <= probability <= 1 + 1e-6
            assert margin >= 0
        chosen = sample_rows(logits, position, params, history, draft_tokens)
        assert chosen.tolist() == expected, params


def test_short_rows(implementation: str) -> None:
    check_random_requests(np.random.default_rng(1), [1, 2, 3, 17, 64, 300, 1000], 500)


def test_rows_of_several_blocks(implementation: str) -> None:
    """Long enough for every shortcut: group maxima, both heads of a nucleus, buckets, chunks of the numpy form."""
    check_random_requests(np.random.default_rng(2), [17_000, 33_000], 12)


def test_a_large_vocabulary(implementation: str) -> None:
    check_random_requests(np.random.default_rng(3), [151_936], 1)


@pytest.mark.parametrize("spread", [0.1, 2.0, 8.0])
@pytest.mark.parametrize("temperature", [0.3, 0.8, 5.0])
def test_no_winner_is_ever_filtered_out(implementation: str, spread: float, temperature: float) -> None:
    """Many positions, each against the noise of all ids."""
    size, num_positions = 3000, 150
    logits = np.random.default_rng(5).normal(0, spread, size).astype(np.float32)
    params = SamplingParams(temperature=temperature, seed=6)
    ids = np.arange(size)
    for position in range(num_positions):
        key = noise.noise_key(params.seed, position)
        scores = logits.astype(np.float64) / temperature + noise.gumbels(noise.mix(noise.counters(key, ids)))
        second, best = np.sort(scores)[-2:]
        token, _, margin = sample_with_confidence(logits, position, params, [])
        assert token == scores.argmax() == sample(logits, position, params, [])
        assert margin == pytest.approx(best - second, rel=0, abs=1e-9)


@pytest.mark.parametrize("size", [5000, 40_000])
@pytest.mark.parametrize(("logit", "temperature"), [(1e20, 0.8), (1e8, 1e-6)])
def test_more_ties_than_the_compiled_filter_has_room_for(
    implementation: str, size: int, logit: float, temperature: float
) -> None:
    """At the first magnitude all noise is lost to rounding and the lowest id wins; at the second, some is left."""
    logits = np.full(size, logit, np.float32)
    params = SamplingParams(temperature, seed=3)
    chosen = sample(logits, 0, params, [])
    assert chosen == reference.sample(logits.tolist(), 0, params, [])
    assert (chosen == 0) == (logit == 1e20)


def test_all_implementations_report_the_same_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    for _ in range(100):
        row, params = random_row(rng, 3000), random_params(rng, 3000)
        found = []
        for is_compiled in (kernel.IS_COMPILED, False):
            monkeypatch.setattr(kernel, "IS_COMPILED", is_compiled)
            found.append(sample_with_confidence(row, 5, params, [1, 2, 3]))
        (token, probability, margin), (other_token, other_probability, other_margin) = found
        assert (token, margin) == (other_token, other_margin)
        # Told, and deciding no token: floats do.
        assert probability == pytest.approx(other_probability, rel=2e-6)
