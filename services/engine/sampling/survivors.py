"""Which ids can win once noise is added, without a logarithm per id.

The bound is explained in _kernel.c: the compiled filter, and the numpy form here that stands in where it was not built.
Both only leave out ids that cannot win; sample.py scores what is left, so that the choice does not depend on which ran.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.engine.sampling import kernel
from services.engine.sampling.noise import GOLDEN, counters, gumbels, mix
from services.engine.sampling.nucleus import NO_EDGE, Edge

_FIRST_CHUNK: Final = 256  # all of these get their logarithm, so that the bar is high for the rest
_CHUNK: Final = 16384  # ids per step: the arrays of a step stay in the second-level cache
_SHIFT: Final = np.uint64(33)  # leaves 31 bits of the hash
_MASK: Final = 2**64 - 1
_Values = NDArray[np.float32] | NDArray[np.float64]
_STEPS: Final = counters((-GOLDEN) & _MASK, np.arange(_CHUNK))  # multiples of GOLDEN from 0 on


def of_row(
    dense: NDArray[np.float32], temperature: float, key: int, start: int, num_best: int, edge: Edge = NO_EDGE
) -> Sequence[int]:
    """Candidates of a row [vocabulary] that can have one of the num_best (1 or 2) highest scores, a few too many.

    `start` is a candidate, preferably that of the highest logit.
    """
    if kernel.IS_COMPILED:
        ids = kernel.survivors(dense, temperature, key, start, num_best, *edge)
        if ids is not None:
            return ids
    search = _Search(temperature, num_best, start, edge)
    search.offer(np.array([start]), dense[start : start + 1], mix(counters(key, np.array([start]))))
    for first, last in _chunks(dense.size):
        states = _STEPS[: last - first] + np.uint64((key + (first + 1) * GOLDEN) & _MASK)
        search.scan(first, dense[first:last], mix(states))
    return search.result()


def of_candidates(ids: NDArray[np.int64], z: NDArray[np.float64], key: int, num_best: int) -> Sequence[int]:
    """Indices into ids and z, both [n], n above 0, whose score can be one of the num_best highest, a few too many."""
    if ids.size <= _FIRST_CHUNK:
        scores = z + gumbels(mix(counters(key, ids)))
        near: list[int] = np.flatnonzero(scores >= _bar(scores, num_best)).tolist()
        return near
    search = _Search(1.0, num_best)
    for first, last in _chunks(ids.size):
        search.scan(first, z[first:last], mix(counters(key, ids[first:last])))
    return search.result()


def _chunks(size: int) -> list[tuple[int, int]]:
    edges = [0, *range(min(_FIRST_CHUNK, size), size, _CHUNK), size]
    return list(pairwise(edges))


def _bar(scores: NDArray[np.float64], num_best: int) -> float:
    """Scores below this cannot matter; the slack is far above the rounding of any logarithm and of the sum."""
    if scores.size < num_best:
        return -math.inf
    bar = float(np.partition(scores, -num_best)[-num_best])
    return bar - (1e-9 + 1e-12 * abs(bar))


class _Search:
    """Candidates for the best scores among the indices seen so far; `start` is offered apart, before the rest."""

    def __init__(self, temperature: float, num_best: int, start: int = -1, edge: Edge = NO_EDGE) -> None:
        self._temperature = temperature
        self._edge = edge
        self._num_best = num_best
        self._start = start
        self._bar = -math.inf
        self._indices: NDArray[np.int64] = np.empty(0, np.int64)
        self._scores: NDArray[np.float64] = np.empty(0, np.float64)
        # As in _kernel.c: 127 is the float's exponent bias, 31 the bits looked at, 0.01 covers the rounding.
        self._slope = np.float32(temperature * math.log(2) * 2.0**-23)
        self._offset = np.float32(-temperature * math.log(2) * (127 + 31 + 0.01))

    def scan(self, first: int, values: _Values, hashes: NDArray[np.uint64]) -> None:
        """Takes in those of the indices from `first` on that can reach the bar."""
        if self._bar == -math.inf:
            near = np.flatnonzero(values > -np.inf)
        else:
            bar = self._temperature * self._bar
            log_distances = (~hashes >> _SHIFT).astype(np.float32).view(np.int32).astype(np.float32)
            log_distances *= self._slope
            log_distances += self._offset
            with np.errstate(over="ignore"):  # to -inf, which never reaches the bar
                near = np.flatnonzero(values - (bar - abs(bar) * 2.0**-22) >= log_distances)
        near = near[near != self._start - first]
        if near.size:
            self.offer(near + first, values[near], hashes[near])

    def offer(self, indices: NDArray[np.int64], values: _Values, hashes: NDArray[np.uint64]) -> None:
        """Scores those of the indices that are candidates and keeps them where they reach the bar, which may rise."""
        z = values.astype(np.float64) / self._temperature
        kept = self._edge.keeps(indices, z)
        if not kept.any():
            return
        indices = np.concatenate((self._indices, indices[kept]))
        scores = np.concatenate((self._scores, z[kept] + gumbels(hashes[kept])))
        self._bar = _bar(scores, self._num_best)
        kept = scores >= self._bar
        self._indices, self._scores = indices[kept], scores[kept]

    def result(self) -> list[int]:
        """The indices that are left."""
        indices: list[int] = self._indices.tolist()
        return indices
