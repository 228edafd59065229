"""Top-p without sorting a vocabulary: where the shortest prefix ends that holds the mass.

Mass is added up by buckets of z, and only the bucket in which the edge lies is sorted. The compiled pass over a row
(`weigh` of _kernel.c) adds up approximate masses with a known error; where that leaves the edge open, which is rare,
and where it was not built, all masses are computed as docs/sampling.md defines them.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.engine.sampling import kernel
from services.engine.sampling.adjust import Row

MASS_BITS: Final = 44
"""Probability mass is counted in units of 2**-44 of the most probable token's. Integers, so that a sum does not depend
on its order; 2**20 of them fit into 64 bits."""

_LOWEST: Final = -31.0  # exp of it is less than a unit
_NUM_BUCKETS: Final = 4096
_BUCKETS_PER_UNIT: Final = (_NUM_BUCKETS - 1) / -_LOWEST
# Relative, of a compiled sum: 1e-11 of each term, and one rounding for each of up to 2**20 additions.
_SUM_ERROR: Final = 1e-9
_FEW: Final = 4096  # candidates that are sorted rather than looked through for a bucket


class Edge(NamedTuple):
    """The last candidate in the order of descending z, ties by ascending id; what comes before it is one, too."""

    z: float
    token: int

    def keeps(self, ids: NDArray[np.int64], z: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of these ids [n] are candidates."""
        kept: NDArray[np.bool_] = (z > self.z) | ((z == self.z) & (ids <= self.token))
        return kept


NO_EDGE: Final = Edge(-math.inf, -1)
"""Every finite z is above it."""


def edge_of(ids: NDArray[np.int64], z: NDArray[np.float64], top_p: float) -> Edge:
    """The edge of the nucleus of candidates, both [n], ids ascending, z finite."""
    best = float(z.max())
    masses = _masses(z, best)
    need = _share(top_p, int(masses.sum()))
    if z.size > _FEW:
        buckets = _buckets(z, best)
        sums = _bucket_sums(buckets, masses)
        edge_bucket = int(np.searchsorted(sums, np.uint64(need)))
        need -= int(sums[edge_bucket - 1]) if edge_bucket else 0
        inside = np.flatnonzero(buckets == edge_bucket)
        ids, z = ids[inside], z[inside]
    edge = _edge_within(ids, z, best, need, need)
    assert edge is not None  # there is no doubt about what is needed
    return edge


def edge_of_row(row: Row, best: float, temperature: float, top_p: float) -> Edge:
    """The edge of the nucleus of a whole row; `best` is the largest z."""
    is_finite = row.values > -np.inf
    changed_ids, changed_z = row.ids[is_finite], row.values[is_finite] / temperature
    if kernel.IS_COMPILED:
        edge = _compiled_edge(row.dense, changed_ids, changed_z, best, temperature, top_p)
        if edge is not None:
            return edge
    ids = np.flatnonzero(row.dense > -np.inf)
    return edge_of(*_merged(ids, row.dense[ids].astype(np.float64) / temperature, changed_ids, changed_z), top_p)


def _compiled_edge(
    dense: NDArray[np.float32],
    changed_ids: NDArray[np.int64],
    changed_z: NDArray[np.float64],
    best: float,
    temperature: float,
    top_p: float,
) -> Edge | None:
    """The edge; None where approximate sums leave it open. The row has -inf for the changed ids."""
    sums = np.zeros(_NUM_BUCKETS)
    buckets = np.empty(dense.size, np.uint16)
    kernel.weigh(dense, temperature, best, _LOWEST, _BUCKETS_PER_UNIT, sums, buckets)
    changed_buckets = _buckets(changed_z, best)
    np.add.at(sums, changed_buckets, np.exp(changed_z - best))
    units = np.cumsum(sums) * 2.0**MASS_BITS
    # Rounding down takes less than a unit from each id; ids far below the best, which have none, were given less.
    least, most = units * (1 - _SUM_ERROR) - dense.size, units * (1 + _SUM_ERROR)
    least_need, most_need = top_p * least[-1] * (1 - _SUM_ERROR), top_p * most[-1] * (1 + _SUM_ERROR) + 1
    edge_bucket = int(np.searchsorted(most, least_need))
    if least[edge_bucket] < most_need:
        return None
    if edge_bucket > 0:
        least_need -= most[edge_bucket - 1]
        most_need -= least[edge_bucket - 1]
    ids, inside = np.flatnonzero(buckets == edge_bucket), changed_buckets == edge_bucket
    z = dense[ids].astype(np.float64) / temperature
    ids, z = _merged(ids, z, changed_ids[inside], changed_z[inside])
    return _edge_within(ids, z, best, least_need, most_need)


def _edge_within(
    ids: NDArray[np.int64], z: NDArray[np.float64], best: float, least_need: float, most_need: float
) -> Edge | None:
    """The first of these ids, which come ascending, with which the mass is reached; None where that is not certain."""
    descending = np.argsort(-z, kind="stable")
    sums = np.cumsum(_masses(z[descending], best))
    index = int(np.searchsorted(sums, np.uint64(max(1, math.floor(least_need)))))
    if index == sums.size or int(sums[index]) < most_need:
        return None
    last = descending[index]
    return Edge(float(z[last]), int(ids[last]))


def _merged(
    ids: NDArray[np.int64], z: NDArray[np.float64], more_ids: NDArray[np.int64], more_z: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All ids, ascending, with their z."""
    if not more_ids.size:
        return ids, z
    ids, z = np.concatenate((ids, more_ids)), np.concatenate((z, more_z))
    order = np.argsort(ids)
    return ids[order], z[order]


def _buckets(z: NDArray[np.float64], best: float) -> NDArray[np.int64]:
    """The bucket of each z, as `weigh` finds it."""
    return (-np.maximum(z - best, _LOWEST) * _BUCKETS_PER_UNIT).astype(np.int64)


def _bucket_sums(buckets: NDArray[np.int64], masses: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Exact sums [_NUM_BUCKETS] of the masses of every bucket and those before it."""
    # bincount adds in float64, which is exact for the halves.
    half = np.uint64(MASS_BITS // 2)
    high = np.bincount(buckets, weights=(masses >> half).astype(np.float64), minlength=_NUM_BUCKETS)
    low_bits = masses & np.uint64(2 ** (MASS_BITS // 2) - 1)
    low = np.bincount(buckets, weights=low_bits.astype(np.float64), minlength=_NUM_BUCKETS)
    return (np.cumsum(high).astype(np.uint64) << half) + np.cumsum(low).astype(np.uint64)


def _share(top_p: float, total: int) -> int:
    """top_p * total, rounded up; exact."""
    numerator, denominator = top_p.as_integer_ratio()
    return -(-numerator * total // denominator)


def _masses(z: NDArray[np.float64], best: float) -> NDArray[np.uint64]:
    return np.floor(np.exp(z - best) * 2.0**MASS_BITS).astype(np.uint64)
