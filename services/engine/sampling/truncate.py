"""Top-k, top-p and min-p, in this order, without sorting a vocabulary.

All of them keep a beginning of the same order, so that what they leave is known by its last candidate.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.engine.sampling.adjust import Row
from services.engine.sampling.nucleus import NO_EDGE, Edge, edge_of, edge_of_row
from services.engine.sampling.params import SamplingParams

_COLUMNS: Final = 128  # ids per group when a lower bound for the k-th largest is taken from group maxima
_LOWEST_FLOAT32: Final = float(np.finfo(np.float32).min)
_EVERY_TIE: Final = 2**31 - 1


def edge_of_candidates(row: Row, best: float, params: SamplingParams) -> Edge:
    """The last candidate that top-p and min-p leave of a row. `best` is the largest z. Temperature is above 0."""
    edge = edge_of_row(row, best, params.temperature, params.top_p) if params.top_p < 1 else NO_EDGE
    return _min_p(edge, best, params)


def top_candidates(row: Row, params: SamplingParams) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids and z, both [n], that top-k and then top-p and min-p leave. Temperature is above 0. Raises LogitsError."""
    row.best()
    ids, z = _at_least(row, lower_bound(row.dense, params.top_k), params.temperature)
    ids, z = _top_k(ids, z, params.top_k)
    edge = edge_of(ids, z, params.top_p) if params.top_p < 1 else NO_EDGE
    kept = _min_p(edge, float(z.max()), params).keeps(ids, z)
    return ids[kept], z[kept]


def _min_p(edge: Edge, best: float, params: SamplingParams) -> Edge:
    """The edge, or that of min-p where it comes earlier."""
    if params.min_p == 0:
        return edge
    bound = best + math.log(params.min_p)
    return Edge(bound, _EVERY_TIE) if bound > edge.z else edge


def _at_least(row: Row, bound: float, temperature: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ids, ascending, and z: all of the model's own float32 values from `bound` on, and all changed ids."""
    ids = np.flatnonzero(row.dense >= max(bound, _LOWEST_FLOAT32))
    values = row.dense[ids].astype(np.float64)
    if row.ids.size:
        is_finite = row.values > -np.inf
        ids = np.concatenate((ids, row.ids[is_finite]))
        order = np.argsort(ids)
        ids, values = ids[order], np.concatenate((values, row.values[is_finite]))[order]
    return ids, values / temperature


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


def _top_k(ids: NDArray[np.int64], z: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `count` largest z, ties to the lower id; ids ascending, as given."""
    surplus = z.size - count
    if surplus <= 0:
        return ids, z
    last = np.partition(z, surplus)[surplus]
    above = z > last
    ties = np.flatnonzero(z == last)
    above[ties[: count - int(above.sum())]] = True
    return ids[above], z[above]
