"""Bias and penalties: what happens to a row of logits before anything is chosen from it.

Only the biased ids and those in the penalty window change, so a row stays the model's float32 array, and the few
changed values stand beside it in float64.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.engine.sampling.params import SamplingParams

Tokens = Sequence[int] | NDArray[np.integer]

_NO_IDS: Final[NDArray[np.int64]] = np.empty(0, np.int64)
_NO_VALUES: Final[NDArray[np.float64]] = np.empty(0, np.float64)
_MINUS_INFINITY: Final = np.float32(-np.inf)


class LogitsError(ArithmeticError):
    """A row of logits that nothing can be chosen from: NaN or +infinity in it, or no finite value left."""


@dataclass(frozen=True, slots=True)
class Row:
    """Logits of one position after bias and penalties; every id stands in exactly one of the two parts."""

    dense: NDArray[np.float32]
    """[vocabulary], C-contiguous; -inf for the ids in `ids` and for those that are suppressed."""
    ids: NDArray[np.int64]
    """Changed ids, ascending."""
    values: NDArray[np.float64]
    """Their values."""

    def best(self) -> tuple[int, float]:
        """Largest value and the lowest id that has it. Raises LogitsError."""
        token = int(self.dense.argmax())  # the first NaN where there is one
        value = float(self.dense[token])
        if self.ids.size:
            index = int(self.values.argmax())
            changed = float(self.values[index])
            if math.isnan(changed) or changed > value or (changed == value and self.ids[index] < token):
                token, value = int(self.ids[index]), changed
        if not -np.inf < value < np.inf:
            raise LogitsError(f"no token can be chosen: the largest logit is {value}")
        return token, value

    def second_best(self, token: int) -> float:
        """Largest value of the ids other than `token`, -inf where there is none."""
        others = (self.dense[:token], self.dense[token + 1 :], self.values[self.ids != token])
        return max(float(part.max(initial=-np.inf)) for part in others)


def has_penalties(params: SamplingParams) -> bool:
    """Whether the tokens before a position can change its logits."""
    return params.penalty_last_n > 0 and (
        params.repetition_penalty != 1.0 or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
    )


class PenaltyWindow:
    """Counts of the last `size` tokens before a position, moved on one token at a time."""

    def __init__(self, size: int, history: Tokens) -> None:
        """`history`: the tokens before the position, oldest first; only its last `size` matter."""
        tail = history[max(len(history) - size, 0) :]
        # As Python integers: numpy's would make every later step on them slow.
        self._tokens = deque(tail.tolist() if isinstance(tail, np.ndarray) else tail)
        self._size = size
        self.counts = Counter(self._tokens)

    def push(self, token: int) -> None:
        """Appends a token; the oldest leaves where the window is full."""
        self._tokens.append(token)
        self.counts[token] += 1
        if len(self._tokens) > self._size:
            oldest = self._tokens.popleft()
            self.counts[oldest] -= 1
            if not self.counts[oldest]:
                del self.counts[oldest]


def adjusted(logits: NDArray[np.float32], params: SamplingParams, counts: Mapping[int, int]) -> Row:
    """Suppresses tokens, and applies bias and penalties, in logits [vocabulary]; counts are of the penalty window.

    Ids beyond the row, which the other model of a pair may have, are passed over.
    """
    if params.suppressed_tokens:
        logits = logits.copy()
        logits[_array(params.suppressed_tokens, logits.size)] = _MINUS_INFINITY
    if not counts and not params.logit_bias:
        return Row(logits, _NO_IDS, _NO_VALUES)
    ids = _sorted_ids({*counts, *params.logit_bias}, logits.size)
    values = logits[ids].astype(np.float64)
    if params.logit_bias:
        values += [params.logit_bias.get(token, 0.0) for token in ids.tolist()]
    if counts:
        values = _penalised(values, np.array([counts.get(token, 0) for token in ids.tolist()], np.int64), params)
    dense = logits if params.suppressed_tokens else logits.copy()
    dense[ids] = _MINUS_INFINITY
    return Row(dense, ids, values)


@lru_cache(maxsize=16)
def _array(tokens: frozenset[int], vocabulary_size: int) -> NDArray[np.int64]:
    """The same for every row of a request, and of most requests to a model. Sets remember their hash."""
    return _sorted_ids(tokens, vocabulary_size)


def _sorted_ids(ids: Iterable[int], vocabulary_size: int) -> NDArray[np.int64]:
    return np.array(sorted(token for token in ids if 0 <= token < vocabulary_size), np.int64)


def _penalised(values: NDArray[np.float64], counts: NDArray[np.int64], params: SamplingParams) -> NDArray[np.float64]:
    """llama.cpp's penalties sampler (`llama_sampler_penalties_apply`), in its order."""
    repetition = params.repetition_penalty
    scaled = np.where(values <= 0, values * repetition, values / repetition)
    scaled -= counts * params.frequency_penalty + params.presence_penalty
    return np.where(counts > 0, scaled, values)
