"""Models of many kinds: served right, whatever their caches are like."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.engine.model.model import Model
from services.engine.runtime.interface import Logits, Segment
from services.engine.runtime.padding import ExactMode, Exactness
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup.exactness import runtime_of
from services.engine.startup.probe import compare, fixed_sequences, references
from tests import foreign_models
from tests.foreign_models import VOCABULARY_SIZE, WINDOW
from tests.integration import unusual_models
from tests.integration.model_options import LENGTH, NUM_SLOTS, OPTIONS, TOLERANCE
from tests.integration.unusual_models import CHUNK
from tests.unit.engine.linear_costs import LinearCosts

pytestmark = pytest.mark.integration

SERVED = {
    "plain": foreign_models.llama,
    "sliding window": foreign_models.sliding,
    "sectioned positions": foreign_models.sections,
    "heads by layer": unusual_models.heads_by_layer,
    "head sizes": unusual_models.head_sizes,
    "shared caches": unusual_models.shared_caches,
    "latent attention": unusual_models.latent,
}
LAYOUTS = {
    "plain": OPTIONS,
    "flash attention": replace(OPTIONS, flash_attention=True),
    "many slots": replace(OPTIONS, num_slots=200),
}


@pytest.fixture(scope="module", params=SERVED)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(SERVED[request.param](tmp_path_factory.mktemp("kinds") / "model.gguf"))


def from_scratch(model: Model, sequences: Sequence[Sequence[int]], options: RuntimeOptions = OPTIONS) -> list[Logits]:
    """The logits of every position of each sequence, evaluated alone and at once."""
    runtime = LlamaRuntime(model, options)
    expected = []
    for tokens in sequences:
        expected.append(runtime.decode([Segment(0, 0, tokens, len(tokens))])[0].copy())
        runtime.cut(0, 0)
    runtime.close()
    return expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cutting_back_and_going_on_is_as_from_scratch(model: Model, layout: str) -> None:
    """Sessions with prompts, rollbacks within and beyond a window, and replays, all in one cache."""
    rng = random.Random(1)
    sequences = fixed_sequences(VOCABULARY_SIZE, [LENGTH] * NUM_SLOTS, seed=2)
    expected = from_scratch(model, sequences, LAYOUTS[layout])
    runtime = LlamaRuntime(model, LAYOUTS[layout])
    held = [0] * NUM_SLOTS
    num_past_window = 0
    for _ in range(150):
        segments = []
        for slot, tokens in enumerate(sequences):
            chance = rng.random()
            if chance < 0.3:
                continue
            if chance < 0.4 or held[slot] == LENGTH:
                held[slot] = rng.choice((0, max(0, held[slot] - rng.randrange(3 * WINDOW))))
                runtime.cut(slot, held[slot])
            num_rows = min(rng.choice((1, 2, 3, 5, 30)), LENGTH - held[slot])
            segments.append(Segment(slot, held[slot], tokens[held[slot] : held[slot] + num_rows], num_rows))
        for segment, logits in zip(segments, runtime.decode(segments) if segments else (), strict=True):
            end = segment.first_position + len(segment.tokens)
            num_past_window += end > 2 * WINDOW
            difference = np.abs(logits - expected[segment.slot][segment.first_position : end])
            assert difference.max() < TOLERANCE, f"slot {segment.slot}, positions {segment.first_position} to {end}"
            # As a rejected draft is taken back.
            held[segment.slot] = end - rng.randrange(min(4, len(segment.tokens)))
            runtime.cut(segment.slot, held[segment.slot])
    assert num_past_window > 100
    runtime.close()


def test_cutting_back_across_the_end_of_a_chunk(tmp_path: Path) -> None:
    model = Model(unusual_models.chunked(tmp_path / "model.gguf"))
    options = replace(OPTIONS, num_slots=2, context_length=CHUNK + 256)
    tokens, rejected = fixed_sequences(VOCABULARY_SIZE, [CHUNK + 24, 24], seed=3)
    start = CHUNK - 8

    def after_prompt() -> LlamaRuntime:
        runtime = LlamaRuntime(model, options)
        for position in range(0, start, 256):
            runtime.decode([Segment(0, position, tokens[position : min(position + 256, start)], 0)])
        return runtime

    runtime = after_prompt()
    expected = runtime.decode([Segment(0, start, tokens[start:], 32)])[0].copy()
    runtime.cut(0, start + 4)
    for first, count in ((start + 4, 2), (start + 6, 12), (start + 10, 3), (CHUNK - 3, 8), (CHUNK + 5, 19)):
        runtime.cut(0, first)
        runtime.decode([Segment(0, first, rejected, 0)])
        runtime.cut(0, first)
        (logits,) = runtime.decode([Segment(0, first, tokens[first : first + count], count)])
        assert np.abs(logits - expected[first - start : first - start + count]).max() < TOLERANCE
    runtime.close()
    # What is compared has seen the end of a chunk: three layers of four know nothing of what was before.
    runtime = LlamaRuntime(model, options)
    (alone,) = runtime.decode([Segment(0, 0, tokens[CHUNK - 8 :], 32)])
    assert np.abs(alone - expected).max() > TOLERANCE
    runtime.close()


def test_a_shared_prefix_survives_what_its_owner_does(model: Model) -> None:
    tokens, other = fixed_sequences(VOCABULARY_SIZE, [LENGTH, LENGTH], seed=3)
    (expected,) = from_scratch(model, [tokens])
    runtime = LlamaRuntime(model, OPTIONS)
    half = LENGTH // 2
    runtime.decode([Segment(0, 0, tokens[:half], 0)])
    runtime.copy(0, 1, half)
    for _ in range(3):
        (logits,) = runtime.decode([Segment(1, half, tokens[half:], half)])
        assert np.abs(logits - expected[half:]).max() < TOLERANCE
        runtime.cut(0, 0)
        for position in range(LENGTH):
            runtime.decode([Segment(0, position, other[position : position + 1], 1)])
        runtime.cut(1, half)
    runtime.close()


def test_one_decode_is_one_pass_for_every_kind(model: Model) -> None:
    runtime = runtime_of(model, replace(OPTIONS, count_passes=True), None, max_draft_tokens=7)
    # As on a device where rows cost next to nothing.
    runtime.costs = LinearCosts(1000.0)
    inner = runtime._inner
    assert isinstance(inner, LlamaRuntime)
    for first_position in (0, 8):
        # Sessions with gaps between them, and different numbers of rows.
        segments = [Segment(slot, first_position, [1] * (8 - slot), 8 - slot) for slot in (0, 2, 3)]
        (group,) = runtime.group(segments)
        assert [logits.shape for logits in runtime.decode(group)] == [(8, 512), (6, 512), (5, 512)]
        for slot in (2, 3):
            runtime.decode([Segment(slot, first_position + 8 - slot, [1] * slot, 1)])
    assert inner.num_passes == inner.num_decodes == 6
    runtime.close()


def test_every_kind_can_be_exact(model: Model) -> None:
    digesting = replace(OPTIONS, digest_attention=True)
    runtime = runtime_of(model, digesting, Exactness(ExactMode.ROW_MULTIPLE, 8), 7)
    first_positions = [4 * WINDOW, 2 * WINDOW, 5, 0]
    sequences = fixed_sequences(VOCABULARY_SIZE, [LENGTH, 4 * WINDOW, 2 * WINDOW, WINDOW], seed=4)
    expected = references(runtime, sequences, first_positions)
    results = [
        compare(runtime, sequences, first_positions, expected, num_steps=20, max_draft_tokens=7, seed=seed)
        for seed in range(3)
    ]
    assert sum(result.num_rows for result in results) > 100
    assert sum(result.num_different for result in results) == 0
    runtime.close()
