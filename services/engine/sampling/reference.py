"""docs/sampling.md written out in plain Python, one float64 operation at a time.

What the fast sampler is checked against: much too slow to serve with, and easy to follow in another language.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from services.engine.sampling.noise import gumbel, noise_key
from services.engine.sampling.params import SamplingParams


def adjusted_logits(logits: Sequence[float], params: SamplingParams, history: Sequence[int]) -> list[float]:
    """Step 1: the mask of suppressed tokens, bias and penalties. `history` holds every token before the position."""
    window = history[-params.penalty_last_n :] if params.penalty_last_n else []
    counts: Mapping[int, int] = Counter(window)
    values = []
    for token, logit in enumerate(logits):
        value = float(logit) + params.logit_bias.get(token, 0.0)
        if token in counts:
            repetition = params.repetition_penalty
            value = value * repetition if value <= 0 else value / repetition
            value -= counts[token] * params.frequency_penalty + params.presence_penalty
        values.append(-math.inf if token in params.suppressed_tokens else value)
    return values


def candidates(values: Sequence[float], params: SamplingParams) -> list[tuple[float, int]]:
    """Steps 2 and 3 at a temperature above 0: (z, token) of what top-k, top-p and min-p keep, best first."""
    finite = [(value / params.temperature, token) for token, value in enumerate(values) if value > -math.inf]
    kept = sorted(finite, key=lambda candidate: (-candidate[0], candidate[1]))
    best = kept[0][0]
    if params.top_k:
        kept = kept[: params.top_k]
    if params.top_p < 1:
        masses = [math.floor(math.exp(z - best) * 2**44) for z, _ in kept]
        numerator, denominator = params.top_p.as_integer_ratio()
        length, mass, total = 0, 0, sum(masses)
        while mass * denominator < numerator * total:
            mass += masses[length]
            length += 1
        kept = kept[:length]
    if params.min_p > 0:
        kept = [candidate for candidate in kept if candidate[0] >= best + math.log(params.min_p)]
    return kept


def sample(logits: Sequence[float], position: int, params: SamplingParams, history: Sequence[int]) -> int:
    """The token at `position`. At least one logit must be finite, and none NaN or +infinity."""
    values = adjusted_logits(logits, params, history)
    if params.temperature == 0:
        return values.index(max(values))
    key = noise_key(params.seed, position)
    scores = [(z + gumbel(key, token), -token) for z, token in candidates(values, params)]
    return -max(scores)[1]
