"""The noise that draft and target share: a hash of (seed, position, token id), and the Gumbel variate made of it.

The hash is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014; finalizer:
variant 13 of Stafford's), which is a counter-based generator: its n-th output is a finalizer of the n-th counter value.
docs/sampling.md writes it down for other languages.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

SAMPLER_VERSION: Final = 2
"""Rises with every change that can change a token: two services agree on noise only where their versions are equal."""

GOLDEN: Final = 0x9E3779B97F4A7C15
_MULTIPLIERS: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_MASK: Final = 2**64 - 1

_GOLDEN = np.uint64(GOLDEN)
_FIRST, _SECOND = (np.uint64(multiplier) for multiplier in _MULTIPLIERS)
_S12, _S27, _S30, _S31 = (np.uint64(shift) for shift in (12, 27, 30, 31))


def splitmix64(state: int, index: int) -> int:
    """Output number `index` (from 0) of the SplitMix64 generator that starts in `state`."""
    mixed = (state + (index + 1) * GOLDEN) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * _MULTIPLIERS[0]) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * _MULTIPLIERS[1]) & _MASK
    return mixed ^ (mixed >> 31)


def noise_key(seed: int, position: int) -> int:
    """State of the generator whose output number `id` is the hash of (seed, position, id)."""
    return splitmix64(splitmix64(seed, 0), position)


def unit(hashed: int) -> float:
    """Uniform in (0, 1), exact in float64: 52 bits and a half never round, so that 0 and 1 cannot occur."""
    return ((hashed >> 12) + 0.5) * 2.0**-52


def gumbel(key: int, token: int) -> float:
    """Standard Gumbel variate of one token id."""
    return -math.log(-math.log(unit(splitmix64(key, token))))


def counters(key: int, ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Counter values of the ids, what `mix` takes."""
    return ids.astype(np.uint64) * _GOLDEN + np.uint64((key + GOLDEN) & _MASK)


def mix(states: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finalizer of every element, in place."""
    states ^= states >> _S30
    states *= _FIRST
    states ^= states >> _S27
    states *= _SECOND
    states ^= states >> _S31
    return states


def gumbels(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Gumbel variates of many hashes; numpy's logarithm may differ from `gumbel` in the last bit."""
    units = (hashes >> _S12).astype(np.float64)
    units += 0.5
    units *= 2.0**-52
    return -np.log(-np.log(units))
