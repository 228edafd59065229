from __future__ import annotations

import math

import numpy as np
import pytest

from services.engine.sampling import noise

# Printed by Vigna's splitmix64.c, seeded with 1234567; found as test vectors of many libraries.
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def test_hash_is_splitmix64() -> None:
    assert [noise.splitmix64(1234567, index) for index in range(5)] == PUBLISHED


def test_vectorised_hash_equals_the_scalar_one() -> None:
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 2**31, 1000)
    for key in (0, 1, 2**64 - 1, int(rng.integers(0, 2**63))):
        hashes = noise.mix(noise.counters(key, ids))
        assert hashes.tolist() == [noise.splitmix64(key, token) for token in ids.tolist()]


def test_vectorised_gumbel_equals_the_scalar_one_to_rounding() -> None:
    ids = np.arange(5000)
    vector = noise.gumbels(noise.mix(noise.counters(7, ids)))
    scalar = [noise.gumbel(7, token) for token in ids.tolist()]
    np.testing.assert_allclose(vector, scalar, rtol=0, atol=1e-13)


@pytest.mark.parametrize("hashed", [0, 1, 2**12, 2**63, 2**64 - 1])
def test_uniforms_are_exact_and_never_0_or_1(hashed: int) -> None:
    """Exact: with one bit more, half a step would round, and the largest hash would make an infinite variate."""
    numerator, denominator = noise.unit(hashed).as_integer_ratio()
    assert numerator * 2**53 == (2 * (hashed >> 12) + 1) * denominator
    assert 0 < numerator < denominator
    assert math.isfinite(-math.log(-math.log(noise.unit(hashed))))


def test_every_seed_and_position_has_its_own_noise() -> None:
    keys = {noise.noise_key(seed, position) for seed in range(100) for position in range(100)}
    assert len(keys) == 10_000
    assert noise.noise_key(2**64 - 1, 2**31) != noise.noise_key(2**64 - 1, 2**31 + 1)


@pytest.mark.parametrize("axis", ["token", "position", "seed"])
def test_uniform_and_uncorrelated_along_each_axis(axis: str) -> None:
    """Neighbours along one axis, the way they are used: mean, variance and lag-1 correlation within 4 sigma."""
    count = 40_000
    arguments = {"token": (5, 9, 0), "position": (5, 0, 11), "seed": (0, 9, 11)}
    values = []
    for index in range(count):
        seed, position, token = arguments[axis]
        if axis == "seed":
            seed = index
        elif axis == "position":
            position = index
        else:
            token = index
        values.append(noise.unit(noise.splitmix64(noise.noise_key(seed, position), token)))
    centered = np.array(values) - 0.5
    assert abs(centered.mean()) < 4 * math.sqrt(1 / 12 / count)
    assert abs((centered**2).mean() - 1 / 12) < 4 * math.sqrt(1 / 180 / count)
    assert abs((centered[1:] * centered[:-1]).mean()) < 4 / 12 / math.sqrt(count)
