"""What is asked of a model: log-probabilities of a given text, text of its own, and how long a token takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from services.engine.runtime.interface import Logits, Runtime, Segment
from services.engine.sampling import SamplingParams, sample, sample_rows

CHUNK_ROWS = 512
DECODES_PER_TURN = 4


def prefill(runtime: Runtime, slot: int, tokens: Sequence[int], *, first_output: int) -> Iterator[tuple[int, Logits]]:
    """Evaluates `tokens` from position 0 of an emptied slot, in chunks.

    Yields (position, logits) for the rows from `first_output` on: logits [rows, vocabulary] of which the first row
    belongs to that position. They are valid until the next item is asked for.
    """
    runtime.cut(slot, 0)
    chunk = min(CHUNK_ROWS, runtime.max_batch_rows)
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        num_outputs = max(0, start + len(part) - max(start, first_output))
        (logits,) = runtime.decode([Segment(slot, start, part, num_outputs)])
        if num_outputs:
            yield start + len(part) - num_outputs, logits


def bits_of_text(runtime: Runtime, bos: int, tokens: Sequence[int], *, window: int = 2048, overlap: int = 512) -> float:
    """Bits that a model needs for `tokens`, BOS before them given.

    A text longer than `window` tokens is cut into windows that start with BOS and with the `overlap` tokens before the
    ones that are counted, so that every token is counted once and, after the first window, from a context of at least
    `overlap` tokens.
    """
    stride = window - overlap - 1
    nats = 0.0
    counted = 0
    while counted < len(tokens):
        end = min(len(tokens), window - 1 if counted == 0 else counted + stride)
        start = max(0, end - window + 1) if counted else 0
        rows = [bos, *tokens[start : end - 1]]
        first = counted - start  # the row that predicts the first token not counted yet
        for position, logits in prefill(runtime, 0, rows, first_output=first):
            targets = tokens[start + position : start + position + len(logits)]
            nats += float(_surprisal(logits, np.asarray(targets)).sum())
        counted = end
    return nats / float(np.log(2.0))


def _surprisal(logits: Logits, targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """-ln softmax(logits)[target] of each row."""
    largest = logits.max(axis=1)
    mass = np.exp(logits - largest[:, None]).sum(axis=1, dtype=np.float64)
    chosen = logits[np.arange(len(targets)), targets]
    surprisal: npt.NDArray[np.float64] = np.log(mass) + largest - chosen
    return surprisal


def generate(
    runtime: Runtime,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    params: Sequence[SamplingParams],
    end_of_generation: frozenset[int],
) -> list[list[int]]:
    """What a model writes after each prompt: up to `num_tokens` tokens, without the one that ends the generation.

    At most as many prompts as the runtime has slots, each with its own parameters. They advance together, a row each,
    whether finished or not, so that every decode is one pass.
    """
    sequences = [list(prompt) for prompt in prompts]
    rows = np.empty((len(prompts), runtime.vocabulary_size), np.float32)
    for slot, prompt in enumerate(prompts):
        for _, logits in prefill(runtime, slot, prompt, first_output=len(prompt) - 1):
            rows[slot] = logits[-1]
    for step in range(num_tokens):
        for row, sequence, own in zip(rows, sequences, params, strict=True):
            sequence.append(sample(row, len(sequence), own, sequence))
        if step + 1 < num_tokens:
            segments = [Segment(slot, len(sequence) - 1, sequence[-1:], 1) for slot, sequence in enumerate(sequences)]
            rows[:] = np.concatenate(runtime.decode(segments))
    texts = [sequence[len(prompt) :] for prompt, sequence in zip(prompts, sequences, strict=True)]
    return [_until_end(text, end_of_generation) for text in texts]


def _until_end(tokens: list[int], end_of_generation: frozenset[int]) -> list[int]:
    return tokens[: next((place for place, token in enumerate(tokens) if token in end_of_generation), len(tokens))]


def choices_along(
    runtime: Runtime, tokens: Sequence[int], first_position: int, params: SamplingParams
) -> npt.NDArray[np.int64]:
    """The token that a model would choose at each position from `first_position` on, given the ones before it."""
    chosen = [
        sample_rows(logits, position + 1, params, tokens[: position + 1], tokens[position + 1 : position + len(logits)])
        for position, logits in prefill(runtime, 0, tokens[:-1], first_output=first_position - 1)
    ]
    return np.concatenate(chosen)


def decode_ms(runtimes: Sequence[Runtime], tokens: Sequence[int], num_tokens: int) -> list[float]:
    """Median milliseconds of a decode of one row, per runtime.

    They are taken in turns, so that disturbances hit all alike, and a few decodes at a time, as a cycle takes the
    draft's. The first part of `tokens` is the context, the last `num_tokens` are decoded one at a time.
    """
    context = len(tokens) - num_tokens
    times: list[list[float]] = [[] for _ in runtimes]
    for runtime in runtimes:
        for _ in prefill(runtime, 0, tokens[:context], first_output=context):
            pass
    for start in range(context, len(tokens), DECODES_PER_TURN):
        for runtime, own in zip(runtimes, times, strict=True):
            for position in range(start, min(start + DECODES_PER_TURN, len(tokens))):
                segment = Segment(0, position, tokens[position : position + 1], 1)
                before = time.perf_counter()
                runtime.decode([segment])
                own.append((time.perf_counter() - before) * 1e3)
    return [statistics.median(own) for own in times]
