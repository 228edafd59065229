"""Reported log-probabilities: the mass of a row, in every form that this machine has."""

import math

import numpy as np
import pytest

from services.engine.sampling.sample import log_mass

RNG = np.random.default_rng(7)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("size", [1, 5, 31, 32, 511, 512, 513, 4096, 33_000])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_the_mass_is_that_of_exact_exponentials(size: int, spread: float) -> None:
    row = (RNG.normal(size=size) * spread + 11.0).astype(np.float32)
    best = float(row.max())
    exact = best + math.log(math.fsum(np.exp(row.astype(np.float64) - best)))
    assert log_mass(row) == pytest.approx(exact, abs=1e-6)


@pytest.mark.usefixtures("implementation")
def test_tokens_that_cannot_be_have_no_mass() -> None:
    row = np.full(40, -np.inf, np.float32)
    row[[3, 39]] = 2.0
    assert log_mass(row) == pytest.approx(2.0 + math.log(2.0), abs=1e-6)


@pytest.mark.usefixtures("implementation")
def test_small_masses_do_not_add_up_to_much() -> None:
    """What lies too far below the best for a float to hold counts for nearly nothing, however much of it there is."""
    row = np.full(150_000, -1e30, np.float32)
    row[0] = 0.0
    assert log_mass(row) == pytest.approx(0.0, abs=1e-6)
