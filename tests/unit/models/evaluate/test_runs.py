"""Bits of a text, generated text and a draft's choices, over a model that can be computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.evaluate.acceptance import Acceptance, count_acceptance
from models.evaluate.runs import bits_of_text, choices_along, decode_ms, generate, prefill
from services.engine.sampling import SamplingParams, sample
from tests.unit.models.evaluate.bigram_runtime import BigramRuntime

BOS = 0
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, seed=11)


def random_tokens(count: int, seed: int = 3) -> list[int]:
    return np.random.default_rng(seed).integers(1, 40, count).tolist()


def bits_by_hand(runtime: BigramRuntime, tokens: list[int]) -> float:
    total = 0.0
    for before, token in zip([BOS, *tokens], tokens, strict=False):
        logits = runtime._table[before].astype(float)
        total += math.log2(np.exp(logits).sum()) - logits[token] / math.log(2)
    return total


@pytest.mark.parametrize("length", [1, 2, 30, 31, 32, 33, 57, 200])
def test_every_token_is_counted_once(length: int) -> None:
    runtime = BigramRuntime.random(0)
    tokens = random_tokens(length)

    assert bits_of_text(runtime, BOS, tokens, window=32, overlap=8) == pytest.approx(bits_by_hand(runtime, tokens))
    assert len(runtime.outputs) == length


def test_an_empty_text_has_no_bits() -> None:
    assert bits_of_text(BigramRuntime.random(0), BOS, []) == 0.0


def test_no_window_is_too_long_and_none_starts_from_less_than_the_overlap() -> None:
    runtime = BigramRuntime.random(0)
    tokens = random_tokens(200)
    bits_of_text(runtime, BOS, tokens, window=32, overlap=8)

    for place, context in enumerate(runtime.outputs):
        assert context[0] == BOS and len(context) < 32
        known = min(place, 8)
        assert len(context) - 1 >= known
        assert context[1:] == tokens[place - len(context) + 1 : place]


def test_prefill_yields_every_row_from_the_first_wanted_one() -> None:
    runtime = BigramRuntime.random(0)
    tokens = random_tokens(50)

    rows = [
        (start + place, row)
        for start, rows in prefill(runtime, 2, tokens, first_output=21)
        for place, row in enumerate(rows)
    ]

    assert [position for position, _ in rows] == list(range(21, 50))
    for position, row in rows:
        np.testing.assert_array_equal(row, runtime._table[tokens[position]])


@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
def test_texts_generated_together_are_the_ones_generated_alone(params: SamplingParams) -> None:
    runtime = BigramRuntime.random(0)
    prompts = [[BOS, *random_tokens(length, seed=length)] for length in (3, 30, 1)]

    together = generate(runtime, prompts, 20, [params] * 3, frozenset())

    for prompt, text in zip(prompts, together, strict=True):
        sequence = list(prompt)
        for _ in range(20):
            sequence.append(sample(runtime._table[sequence[-1]], len(sequence), params, sequence))
        assert text == sequence[len(prompt) :]


def test_generation_ends_before_the_token_that_ends_it() -> None:
    table = np.full((5, 5), -9.0, np.float32)
    for token, successor in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 1)):
        table[token, successor] = 9.0

    texts = generate(BigramRuntime(table), [[0], [3]], 9, [GREEDY] * 2, frozenset({3}))

    assert texts == [[1, 2], [4, 1, 2]]


@pytest.mark.parametrize("params", [GREEDY, SAMPLED])
def test_a_model_chooses_its_own_text(params: SamplingParams) -> None:
    runtime = BigramRuntime.random(0)
    prompt = [BOS, *random_tokens(25)]
    (text,) = generate(runtime, [prompt], 40, [params], frozenset())

    assert choices_along(runtime, [*prompt, *text], len(prompt), params).tolist() == text


def test_times_are_one_per_runtime() -> None:
    times = decode_ms([BigramRuntime.random(0), BigramRuntime.random(1)], random_tokens(30), 10)

    assert len(times) == 2 and min(times) > 0


def speculate(
    target: BigramRuntime, draft: BigramRuntime, prompt: list[int], length: int, num_draft_tokens: int
) -> Acceptance:
    """The speculative cycle itself, step by step: what counting is compared with."""
    sequence = list(prompt)
    num_cycles, num_accepted = 0, [0] * num_draft_tokens
    while len(sequence) + num_draft_tokens < len(prompt) + length:
        proposal = list(sequence)
        for _ in range(num_draft_tokens):
            proposal.append(sample(draft._table[proposal[-1]], len(proposal), SAMPLED, proposal))
        num_cycles += 1
        for place in range(num_draft_tokens + 1):
            sequence.append(sample(target._table[sequence[-1]], len(sequence), SAMPLED, sequence))
            if place == num_draft_tokens or proposal[len(sequence) - 1] != sequence[-1]:
                break
            num_accepted[place] += 1
    return Acceptance(num_cycles, num_accepted)


@pytest.mark.parametrize("num_draft_tokens", [1, 4, 8])
def test_counting_along_the_text_is_what_speculation_does(num_draft_tokens: int) -> None:
    target, noise = BigramRuntime.random(0), BigramRuntime.random(1)
    draft = BigramRuntime(target._table + 0.15 * noise._table)
    prompt = [BOS, *random_tokens(4)]
    (text,) = generate(target, [prompt], 400, [SAMPLED], frozenset())
    choices = choices_along(draft, [*prompt, *text], len(prompt), SAMPLED)

    counted = count_acceptance(
        [[choice == token for choice, token in zip(choices, text, strict=True)]], num_draft_tokens
    )

    assert counted == speculate(target, draft, prompt, len(text), num_draft_tokens)
    assert 0 < counted.num_accepted[-1] < counted.num_cycles
