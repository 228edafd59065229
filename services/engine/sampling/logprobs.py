"""Log-probabilities that are reported: of the raw logits at temperature 1, before bias, penalties and truncation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from services.engine.sampling import kernel
from services.engine.sampling.truncate import lower_bound


def log_mass(logits_row: NDArray[np.float32]) -> float:
    """ln of the sum of exp(logit) over a row [vocabulary], to about 1e-6 relative to the sum (float32 exponentials)."""
    best = float(logits_row.max())
    if kernel.IS_COMPILED:
        return best + math.log(kernel.mass(logits_row, best))
    with np.errstate(over="ignore"):  # to -inf, whose exponential is 0 as it should be
        masses = np.exp(logits_row - np.float32(best))
    return best + math.log(float(masses.sum(dtype=np.float64)))


def log_probabilities(
    logits_row: NDArray[np.float32], token: int, num_top: int
) -> tuple[float, NDArray[np.int64], NDArray[np.float64]]:
    """Natural log-probability of `token`, and the ids and log-probabilities of the num_top most probable tokens.

    The ids come most probable first, ties to the lower id.
    """
    mass = log_mass(logits_row)
    top = _largest_ids(logits_row, num_top)
    return float(logits_row[token]) - mass, top, logits_row[top].astype(np.float64) - mass


def _largest_ids(logits_row: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    if count == 0:
        return np.empty(0, np.int64)
    ids = np.flatnonzero(logits_row >= lower_bound(logits_row, count))
    return ids[np.argsort(-logits_row[ids], kind="stable")][:count]
