"""The sampler's entry points: one token, the rows of one verification, one draft token with its confidence.

Log-probabilities that are reported are of the raw logits at temperature 1, before bias, penalties and truncation.

Parameters are taken as validated (`SamplingParams.validate`), logits as float32 [vocabulary] or [rows, vocabulary].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from services.engine.sampling import kernel, survivors
from services.engine.sampling.adjust import PenaltyWindow, Row, Tokens, adjusted, has_penalties
from services.engine.sampling.noise import gumbel, noise_key
from services.engine.sampling.params import SamplingParams
from services.engine.sampling.truncate import edge_of_candidates, lower_bound, top_candidates


def sample(
    logits_row: NDArray[np.float32],
    position: int,
    params: SamplingParams,
    history: Tokens,
) -> int:
    """The token at `position`, a function of nothing but the arguments.

    `history` holds the tokens before the position, oldest first; the last `penalty_last_n` of them are enough. Raises
    LogitsError where no token can be chosen.
    """
    row = adjusted(logits_row, params, _window_counts(params, history))
    if params.temperature == 0:
        return row.best()[0]
    return _best_scores(row, position, params, 1)[0][1]


def sample_rows(
    logits: NDArray[np.float32],
    first_position: int,
    params: SamplingParams,
    history: Tokens,
    draft_tokens: Tokens,
) -> NDArray[np.int64]:
    """All of `samples`, as an array [rows]."""
    return np.fromiter(samples(logits, first_position, params, history, draft_tokens), np.int64)


def samples(
    logits: NDArray[np.float32],
    first_position: int,
    params: SamplingParams,
    history: Tokens,
    draft_tokens: Tokens,
) -> Iterator[int]:
    """The target's tokens for logits [rows, vocabulary] at positions first_position, first_position + 1, ...

    `history` holds the tokens before first_position; row r is sampled as if draft_tokens[:r] followed them, and only
    when it is asked for. Raises ValueError where there are fewer draft tokens than rows - 1, and LogitsError as
    `sample` does.
    """
    num_rows = len(logits)
    if len(draft_tokens) < num_rows - 1:
        raise ValueError(f"{num_rows} rows follow {num_rows - 1} draft tokens, but there are {len(draft_tokens)}")
    window = PenaltyWindow(params.penalty_last_n, history) if has_penalties(params) else None
    for index in range(num_rows):
        if window is not None and index > 0:
            window.push(int(draft_tokens[index - 1]))
        counts = {} if window is None else window.counts
        row = adjusted(logits[index], params, counts)
        if params.temperature == 0:
            yield row.best()[0]
        else:
            yield _best_scores(row, first_position + index, params, 1)[0][1]


def sample_with_confidence(
    logits_row: NDArray[np.float32],
    position: int,
    params: SamplingParams,
    history: Tokens,
) -> tuple[int, float, float]:
    """`sample`, with how sure the choice is: (token, probability, margin).

    The probability is the token's softmax of the raw logits at temperature 1, untruncated. The margin is the best minus
    the second-best perturbed score; at temperature 0, the best minus the second-best logit after bias and penalties. It
    is infinite where there was no second candidate.
    """
    row = adjusted(logits_row, params, _window_counts(params, history))
    if params.temperature == 0:
        token, best = row.best()
        margin = best - row.second_best(token)
    else:
        (best, token), *others = _best_scores(row, position, params, 2)
        margin = best - others[0][0] if others else math.inf
    probability = math.exp(float(logits_row[token]) - log_mass(logits_row))
    return token, probability, margin


def log_probabilities(
    logits_row: NDArray[np.float32], token: int, num_top: int
) -> tuple[float, NDArray[np.int64], NDArray[np.float64]]:
    """Natural log-probability of `token`, and the ids and log-probabilities of the num_top most probable tokens.

    The ids come most probable first, ties to the lower id.
    """
    mass = log_mass(logits_row)
    top = _largest_ids(logits_row, num_top)
    return float(logits_row[token]) - mass, top, logits_row[top].astype(np.float64) - mass


def log_mass(logits_row: NDArray[np.float32]) -> float:
    """ln of the sum of exp(logit) over a row [vocabulary], to about 1e-6 relative to the sum (float32 exponentials)."""
    best = float(logits_row.max())
    if kernel.IS_COMPILED:
        return best + math.log(kernel.mass(logits_row, best))
    with np.errstate(over="ignore"):  # to -inf, whose exponential is 0 as it should be
        masses = np.exp(logits_row - np.float32(best))
    return best + math.log(float(masses.sum(dtype=np.float64)))


def _largest_ids(logits_row: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    if count == 0:
        return np.empty(0, np.int64)
    ids = np.flatnonzero(logits_row >= lower_bound(logits_row, count))
    return ids[np.argsort(-logits_row[ids], kind="stable")][:count]


def _window_counts(params: SamplingParams, history: Tokens) -> Mapping[int, int]:
    return PenaltyWindow(params.penalty_last_n, history).counts if has_penalties(params) else {}


def _best_scores(row: Row, position: int, params: SamplingParams, num_best: int) -> list[tuple[float, int]]:
    """The highest perturbed scores, best first, ties to the lower id: (score, token), num_best or fewer of them.

    The one place where scores are computed that decide, whichever way the survivors were found.
    """
    key = noise_key(params.seed, position)
    if params.top_k:
        ids, z = top_candidates(row, params)
        survivors_z = [(float(z[index]), int(ids[index])) for index in survivors.of_candidates(ids, z, key, num_best)]
    else:
        survivors_z = _survivors_of_row(row, params, key, num_best)
    scores = [(value + gumbel(key, token), token) for value, token in survivors_z]
    scores.sort(key=lambda scored: (-scored[0], scored[1]))
    return scores[:num_best]


def _survivors_of_row(row: Row, params: SamplingParams, key: int, num_best: int) -> list[tuple[float, int]]:
    """(z, token) of every candidate of the whole row that can have one of the num_best highest scores."""
    temperature = params.temperature
    start, best = row.best()
    edge = edge_of_candidates(row, best / temperature, params)
    found: list[tuple[float, int]] = []
    if row.ids.size:
        start = int(row.dense.argmax())
        ids, z = row.ids, row.values / temperature
        kept = edge.keeps(ids, z)
        ids, z = ids[kept], z[kept]
        if ids.size:
            found = [(float(z[i]), int(ids[i])) for i in survivors.of_candidates(ids, z, key, num_best)]
    start_z = float(row.dense[start]) / temperature
    if start_z > edge.z or (start_z == edge.z and start <= edge.token):
        tokens = survivors.of_row(row.dense, temperature, key, start, num_best, edge)
        found += [(float(row.dense[token]) / temperature, token) for token in tokens]
    return found
