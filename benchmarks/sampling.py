"""Times the sampler on one core: `python benchmarks/sampling.py [--vocabulary 151936] [--rows 8] [--repeats 50]`.

Logits are random rows whose spread and peak resemble a language model's; every repeat samples other rows at other
positions. Printed are the least and the median time in milliseconds for all rows together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from services.engine.sampling import (
    SamplingParams,
    kernel,
    log_probabilities,
    sample_rows,
    sample_with_confidence,
)

SAMPLED = SamplingParams(temperature=0.8, seed=1)
CASES = {
    "greedy": SamplingParams(),
    "temperature 0.8": SAMPLED,
    "temperature 0.8, penalties": replace(SAMPLED, repetition_penalty=1.1, frequency_penalty=0.2),
    "temperature 0.8, 10 biases": replace(SAMPLED, logit_bias={token: 1.0 for token in range(10)}),
    "temperature 0.8, top-k 40": replace(SAMPLED, top_k=40),
    "temperature 0.8, top-k 40, top-p 0.95": replace(SAMPLED, top_k=40, top_p=0.95),
    "temperature 0.8, top-p 0.95": replace(SAMPLED, top_p=0.95),
    "temperature 0.8, min-p 0.05": replace(SAMPLED, min_p=0.05),
}


def model_like_logits(
    rng: np.random.Generator, num_rows: int, vocabulary_size: int, peak: float
) -> NDArray[np.float32]:
    """Random logits [num_rows, vocabulary_size]: a normal bulk, and a hundred ids falling off from `peak` above it."""
    logits = rng.normal(0.0, 2.0, (num_rows, vocabulary_size))
    for row in logits:
        ids = rng.choice(vocabulary_size, 100, replace=False)
        row[ids] = 10.0 + peak - rng.exponential(1.0, 100).cumsum() / 2
    return logits.astype(np.float32)


def measured(call: Callable[[int], object], num_repeats: int) -> str:
    """Least and median time of call(0), call(1), ... in milliseconds, after one call that is not counted."""
    times_ms = []
    for repeat in range(num_repeats + 1):
        start = time.perf_counter()
        call(repeat)
        times_ms.append((time.perf_counter() - start) * 1e3)
    return f"{min(times_ms[1:]):8.3f} {median(times_ms[1:]):8.3f}"


def measure_all(batches: list[NDArray[np.float32]], num_repeats: int) -> None:
    """Prints one line per case."""
    num_rows, vocabulary_size = batches[0].shape
    history = np.random.default_rng(2).integers(0, vocabulary_size, 512)
    draft_tokens = history[:num_rows]

    def batch(repeat: int) -> NDArray[np.float32]:
        return batches[repeat % len(batches)]

    for name, params in CASES.items():

        def rows(repeat: int, params: SamplingParams = params) -> object:
            return sample_rows(batch(repeat), repeat * num_rows, params, history, draft_tokens)

        print(f"{measured(rows, num_repeats)}  {num_rows} rows, {name}")
    for name in ("greedy", "temperature 0.8"):

        def confidence(repeat: int, params: SamplingParams = CASES[name]) -> object:
            return sample_with_confidence(batch(repeat)[0], repeat, params, history)

        print(f"{measured(confidence, num_repeats)}  1 row with confidence, {name}")

    def top_ten(repeat: int) -> object:
        return log_probabilities(batch(repeat)[0], 0, 10)

    print(f"{measured(top_ten, num_repeats)}  1 row, log-probability and the 10 most probable")


def main() -> None:
    """Measures every case with the compiled filter, where it was built, and without."""
    parser = argparse.ArgumentParser(description="Times the sampler on one core.")
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    rng = np.random.default_rng(1)
    was_compiled = kernel.IS_COMPILED
    for peak in (0.0, 8.0):
        batches = [model_like_logits(rng, arguments.rows, arguments.vocabulary, peak) for _ in range(4)]
        for is_compiled in (True, False) if was_compiled else (False,):
            kernel.IS_COMPILED = is_compiled
            print(f"\nvocabulary {arguments.vocabulary}, peak {peak:g}, {'compiled' if is_compiled else 'numpy'}")
            print(f"{'least':>8} {'median':>8}  ms")
            measure_all(batches, arguments.repeats)


if __name__ == "__main__":
    main()
