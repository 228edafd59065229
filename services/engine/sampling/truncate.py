"""Top-k, top-p and min-p, in this order, without sorting a vocabulary.

Each is decided in float64 on a few ids. Which ids those are is found with cheap float32 bounds that can only keep too
many; where a bound cannot decide (a nucleus whose edge lies within the rounding of a float32 sum), everything is
computed in float64.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.engine.sampling.adjust import Row
from services.engine.sampling.params import SamplingParams

MASS_BITS: Final = 44
"""Probability mass is counted in units of 2**-44 of the most probable token's. Integers, so that a sum does not depend
on its order; 2**20 of them fit into 64 bits."""

_COLUMNS: Final = 128  # ids per group when a lower bound for the k-th largest is taken from group maxima
_HEADS: Final = (256, 4096)  # numbers of largest ids in which the edge of a nucleus is looked for
_ESTIMATE_ERROR: Final = 2e-5  # relative; twice what _estimated_masses promises
_BUCKETS_PER_UNIT: Final = 64
_NUM_BUCKETS: Final = 2048  # the last one begins 32 below the best, where masses are 0
_MAX_FLOAT32: Final = float(np.finfo(np.float32).max)


class Candidates(NamedTuple):
    """What noise may choose from: distinct ids and their z = value / temperature, all finite."""

    ids: NDArray[np.int64]
    z: NDArray[np.float64]

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Candidates:
        """Some of them, in the order of `index`."""
        return Candidates(self.ids[index], self.z[index])


def truncated(row: Row, params: SamplingParams) -> Candidates:
    """Candidates that top-k, top-p and min-p leave. Temperature is above 0. Raises LogitsError."""
    _, best = row.best()
    temperature = params.temperature
    if params.top_k:
        candidates = _top_k(_largest(row, params.top_k, temperature), params.top_k)
        if params.top_p < 1:
            candidates = _top_p(candidates, params.top_p)
    elif params.top_p < 1:
        candidates = _top_p_of_row(row, best, params)
    else:
        # One part in a million below the bound, so that rounding to float32 cannot drop an id that reaches it.
        bound = best + temperature * math.log(params.min_p)
        candidates = _at_least(row, bound - 1e-6 * (abs(bound) + temperature), temperature)
    if params.min_p > 0:
        candidates = candidates.take(candidates.z >= candidates.z.max() + math.log(params.min_p))
    return candidates


def _at_least(row: Row, bound: float, temperature: float) -> Candidates:
    """Every id of the model's own float32 values from `bound` on, and every changed id; ids ascending."""
    ids = np.flatnonzero(row.dense >= _as_float32(bound))
    values = row.dense[ids].astype(np.float64)
    if row.ids.size:
        is_finite = row.values > -np.inf
        ids = np.concatenate((ids, row.ids[is_finite]))
        order = np.argsort(ids)
        ids, values = ids[order], np.concatenate((values, row.values[is_finite]))[order]
    return Candidates(ids, values / temperature)


def _largest(row: Row, count: int, temperature: float) -> Candidates:
    """The `count` largest ids with every tie of the last one, and some more."""
    return _at_least(row, lower_bound(row.dense, count), temperature)


def lower_bound(dense: NDArray[np.float32], count: int) -> float:
    """A value that at least `count` elements reach (or -inf): close to the largest such value, and cheap.

    `count` groups have a maximum at or above the count-th largest maximum, hence as many elements do.
    """
    num_groups = dense.size // _COLUMNS
    if count >= dense.size:
        return -math.inf
    if 2 * count > num_groups:
        return float(np.partition(dense, dense.size - count)[dense.size - count])
    # Strided groups: the maximum over rows of a matrix is taken 16 columns at a time.
    maxima = dense[: num_groups * _COLUMNS].reshape(_COLUMNS, num_groups).max(axis=0)
    return float(np.partition(maxima, num_groups - count)[num_groups - count])


def _as_float32(value: float) -> np.float32:
    """The nearest finite float32."""
    return np.float32(min(max(value, -_MAX_FLOAT32), _MAX_FLOAT32))


def _top_k(candidates: Candidates, count: int) -> Candidates:
    """The `count` largest z, ties to the lower id; ids ascending, as given."""
    surplus = candidates.z.size - count
    if surplus <= 0:
        return candidates
    edge = np.partition(candidates.z, surplus)[surplus]
    above = candidates.z > edge
    ties = np.flatnonzero(candidates.z == edge)
    above[ties[: count - int(above.sum())]] = True
    return candidates.take(above)


def _top_p(candidates: Candidates, top_p: float) -> Candidates:
    """The smallest descending prefix, ties to the lower id, that holds at least top_p of the mass."""
    best = float(candidates.z.max())
    masses = _masses(candidates.z, best)
    need = _share(top_p, int(masses.sum()))
    if candidates.z.size <= _HEADS[-1]:
        return _prefix(_descending(candidates), best, need)
    # Sorting is left to the one bucket, of all those with about the same z, in which the edge lies.
    bucket = np.minimum((best - candidates.z) * _BUCKETS_PER_UNIT, _NUM_BUCKETS - 1).astype(np.int64)
    sums = _bucket_sums(bucket, masses)
    edge = int(np.searchsorted(sums, np.uint64(need)))
    if edge > 0:
        need -= int(sums[edge - 1])
    last = _prefix(_descending(candidates.take(np.flatnonzero(bucket == edge))), best, need)
    whole = candidates.take(np.flatnonzero(bucket < edge))
    return Candidates(np.concatenate((whole.ids, last.ids)), np.concatenate((whole.z, last.z)))


def _bucket_sums(bucket: NDArray[np.int64], masses: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Exact sums [_NUM_BUCKETS] of the masses of every bucket and those before it."""
    # bincount adds in float64, which is exact for the halves.
    half = np.uint64(MASS_BITS // 2)
    high = np.bincount(bucket, weights=(masses >> half).astype(np.float64), minlength=_NUM_BUCKETS)
    low_bits = masses & np.uint64(2 ** (MASS_BITS // 2) - 1)
    low = np.bincount(bucket, weights=low_bits.astype(np.float64), minlength=_NUM_BUCKETS)
    return (np.cumsum(high).astype(np.uint64) << half) + np.cumsum(low).astype(np.uint64)


def _top_p_of_row(row: Row, best: float, params: SamplingParams) -> Candidates:
    """_top_p of a whole row: exact masses for the largest ids, an estimate for the rest wherever that decides."""
    temperature = params.temperature
    is_short = row.dense.size <= _HEADS[0]
    estimates = None if is_short else _estimated_masses(row.dense, best, temperature)
    if estimates is not None:
        for size in _HEADS:
            head = _descending(_largest(row, size, temperature))
            estimates[head.ids] = 0
            tail = float(estimates.sum(dtype=np.float64)) * 2**MASS_BITS
            sums = np.cumsum(_masses(head.z, best / temperature))
            # Rounding down to whole units takes less than one unit from each id.
            least = int(sums[-1]) + max(math.floor(tail * (1 - _ESTIMATE_ERROR)) - row.dense.size, 0)
            most = int(sums[-1]) + math.ceil(tail * (1 + _ESTIMATE_ERROR))
            shortest, longest = (_prefix_length(sums, _share(params.top_p, total)) for total in (least, most))
            if shortest == longest <= sums.size:
                return head.take(slice(shortest))
    return _top_p(_at_least(row, -math.inf, temperature), params.top_p)


def _estimated_masses(dense: NDArray[np.float32], best: float, temperature: float) -> NDArray[np.float32] | None:
    """exp(z - z_max) of a row, their sum within a relative error of 1e-5; None where float32 cannot give that.

    Two rounded float32 operations put |x| * 2e-7 on an exponent x, and exp itself 3e-7; where x is below -32 a whole
    vocabulary adds less than 1e-8.
    """
    # The best value need not be a float32 where bias or a penalty changed it.
    center = _as_float32(best)
    if abs(float(center) - best) > 1e-6 * temperature:
        return None
    with np.errstate(over="ignore"):  # to -inf, whose exponential is 0 as it should be
        masses: NDArray[np.float32] = np.exp((dense - center) * np.float32(1 / temperature))
    return masses


def _share(top_p: float, total: int) -> int:
    """top_p * total, rounded up; exact."""
    numerator, denominator = top_p.as_integer_ratio()
    return -(-numerator * total // denominator)


def _masses(z: NDArray[np.float64], best: float) -> NDArray[np.uint64]:
    return np.floor(np.exp(z - best) * 2.0**MASS_BITS).astype(np.uint64)


def _descending(candidates: Candidates) -> Candidates:
    # Stable: ties stay in the order of their ids.
    return candidates.take(np.argsort(-candidates.z, kind="stable"))


def _prefix(descending: Candidates, best: float, need: int) -> Candidates:
    return descending.take(slice(_prefix_length(np.cumsum(_masses(descending.z, best)), need)))


def _prefix_length(sums: NDArray[np.uint64], need: int) -> int:
    """Length of the shortest prefix that holds the mass; one too many where the whole does not."""
    return int(np.searchsorted(sums, np.uint64(need))) + 1
