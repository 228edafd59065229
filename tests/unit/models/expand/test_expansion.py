"""Expansion: the same logits from a larger file, through every type; sizes that cannot be are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest

from models.expand.expansion import Expansion
from models.expand.shape import LOW_BIT_TYPES, PRESETS, ExpansionError, Shape, estimated_bytes, expanded_config
from models.llama_gguf import MATRIX_TYPES, LlamaConfig, LlamaFile, ModelFileError, read_llama, tensor_shapes
from models.tiny import write_tiny_model
from services.engine.model.model import Model
from services.engine.runtime.interface import Segment
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from tests.unit.models.expand.expanding import BLOCK_SHAPE, SHAPE, expanded
from tests.unit.models.expand.reference_llama import reference_logits

PAIR_TARGET = LlamaConfig(
    dim=384, num_layers=6, num_heads=6, num_kv_heads=6, ffn=1024, vocab_size=4096, context_length=2048
)
PROMPTS = [f"def function_{number}(argument):\n    return {number}" for number in range(20)]


def greedy_texts(path: Path, num_tokens: int = 24) -> list[list[int]]:
    """What llama.cpp writes after each of PROMPTS."""
    loaded = Model(path)
    runtime = LlamaRuntime(loaded, RuntimeOptions(num_slots=1, context_length=256, num_threads=1))
    texts = []
    for prompt in PROMPTS:
        tokens = loaded.vocabulary.tokenize(prompt, add_bos=True, parse_special=False)
        runtime.cut(0, 0)
        written: list[int] = []
        pending: Sequence[int] = tokens
        for _ in range(num_tokens):
            position = len(tokens) + len(written) - len(pending)
            (logits,) = runtime.decode([Segment(0, position, pending, 1)])
            written.append(int(logits[-1].argmax()))
            pending = written[-1:]
        texts.append(written)
    runtime.close()
    loaded.close()
    return texts


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_expanded_logits_are_the_original_ones(tmp_path: Path, num_kv_heads: int, is_tied: bool) -> None:
    model = write_tiny_model(tmp_path / "m.gguf", dim=128, num_kv_heads=num_kv_heads, is_tied=is_tied)
    config, tensors, vocabulary = read_llama(model)
    large = expanded(model, tmp_path / "large.gguf", Shape(dim=384, num_layers=5, ffn=320))
    large_config, large_tensors, large_vocabulary = read_llama(large)
    tokens = [0, *np.random.default_rng(5).integers(2, config.vocab_size, 48).tolist()]

    original = reference_logits(config, tensors, tokens)
    difference = reference_logits(large_config, large_tensors, tokens) - original

    assert np.abs(difference).max() < 1e-4 < original.std()
    assert large_vocabulary == vocabulary
    assert large_config.head_size == config.head_size
    assert large_config.num_heads // large_config.num_kv_heads == config.num_heads // config.num_kv_heads
    assert (large_config.dim, large_config.num_layers, large_config.ffn) == (384, 5, 320)


def test_the_reference_is_what_llama_cpp_computes(model: Path) -> None:
    config, tensors, _ = read_llama(model)
    tokens = [0, *np.random.default_rng(6).integers(2, config.vocab_size, 30).tolist()]
    loaded = Model(model)
    runtime = LlamaRuntime(loaded, RuntimeOptions(num_slots=1, context_length=256, num_threads=1))
    (logits,) = runtime.decode([Segment(0, 0, tokens, len(tokens))])

    # llama.cpp keeps keys and values in half precision.
    np.testing.assert_allclose(logits, reference_logits(config, tensors, tokens), rtol=0, atol=0.05)
    runtime.close()
    loaded.close()


def test_llama_cpp_writes_the_same_text_with_an_expanded_model(tmp_path: Path, model: Path) -> None:
    assert greedy_texts(expanded(model, tmp_path / "large.gguf", SHAPE)) == greedy_texts(model)


def test_what_is_added_is_dense_and_what_it_feeds_is_zero(tmp_path: Path, model: Path) -> None:
    _, old, _ = read_llama(model)
    _, new, _ = read_llama(expanded(model, tmp_path / "large.gguf", SHAPE))

    for name, values in new.items():
        part = name.split(".")[-2]
        rows, columns = (*old.get(name, np.zeros((0, 0))).shape, 0)[:2]
        if part in {"attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"}:
            assert np.count_nonzero(values[rows:]) > 0.99 * values[rows:].size > 0
            assert not values[:rows, columns:].any()
        elif values.ndim == 2:
            assert not values[rows:].any() and not values[:, columns:].any()


@pytest.mark.parametrize("file_type", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_every_type_is_written_and_loads(tmp_path: Path, model: Path, file_type: str) -> None:
    path = expanded(model, tmp_path / "large.gguf", BLOCK_SHAPE, file_type)

    Model(path).close()
    file = LlamaFile(path)
    assert (file.config.dim, file.config.num_layers, file.config.ffn) == (256, 3, 512)
    assert file.fields["general.file_type"].value == (MATRIX_TYPES | LOW_BIT_TYPES)[file_type]
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_type_says_the_same(tmp_path: Path) -> None:
    """Rounding to a type twice is rounding once, so an expansion within a type loses nothing."""
    model = write_tiny_model(tmp_path / "m.gguf", file_type="Q8_0")
    _, old, _ = read_llama(model)
    _, new, _ = read_llama(expanded(model, tmp_path / "large.gguf", SHAPE, "Q8_0"))

    for name, values in old.items():
        if values.ndim == 2:
            np.testing.assert_array_equal(new[name][: values.shape[0], : values.shape[1]], values)


def test_the_seed_decides_every_byte(tmp_path: Path, model: Path) -> None:
    files = [
        expanded(model, tmp_path / f"{number}.gguf", SHAPE, seed=seed).read_bytes()
        for number, seed in enumerate((1, 1, 2))
    ]

    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("vocab_size", [4096, 8192])
@pytest.mark.parametrize("is_tied", [True, False])
def test_the_1b_preset_has_the_size_it_is_named_for(vocab_size: int, is_tied: bool) -> None:
    config = expanded_config(replace(PAIR_TARGET, vocab_size=vocab_size), PRESETS["1b"], "BF16")

    assert estimated_bytes(config, "BF16", is_tied=is_tied) == pytest.approx(1.66e9, rel=0.05)


@pytest.mark.parametrize("name", ["1b", "3b", "8b"])
def test_a_draft_preset_costs_about_a_thirtieth(name: str) -> None:
    def weights(preset: str) -> int:
        config = expanded_config(
            replace(PAIR_TARGET, dim=192, ffn=512, num_heads=3, num_kv_heads=3), PRESETS[preset], "F16"
        )
        return sum(map(prod, tensor_shapes(config).values()))

    assert weights(name) / weights(f"draft-{name}") == pytest.approx(30, rel=0.1)


BAD_SIZES = {
    "smaller dim": (Shape(32, 2, 128), "F32", "--dim 32 is below"),
    "fewer layers": (Shape(64, 1, 128), "F32", "--layers 1 is below"),
    "smaller ffn": (Shape(64, 2, 96), "F32", "--ffn 96 is below"),
    "no multiple of the head size": (Shape(80, 2, 128), "F32", "--dim 80 is not a multiple of 32, the head size"),
    "dim against the block": (Shape(96, 2, 256), "Q4_K_M", "--dim 96 is not a multiple of 256"),
    "ffn against the block": (Shape(256, 2, 130), "Q8_0", "--ffn 130 is not a multiple of 32"),
    "unknown type": (Shape(64, 2, 128), "Q9_X", "unknown type 'Q9_X'"),
}


@pytest.mark.parametrize("case", BAD_SIZES)
def test_sizes_that_cannot_be_are_refused(model: Path, case: str) -> None:
    shape, file_type, message = BAD_SIZES[case]

    with pytest.raises(ExpansionError, match=message):
        Expansion.plan(model, shape, file_type)


def test_shared_key_value_heads_stay_together(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m.gguf", dim=128, num_kv_heads=2)

    with pytest.raises(ExpansionError, match="not a multiple of 64, 2 heads that share"):
        Expansion.plan(model, Shape(160, 2, 256), "F32")


def test_a_corrupt_model_is_refused(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "corrupt.gguf"
    path.write_bytes(model.read_bytes()[:-40])

    with pytest.raises(ModelFileError, match="not a valid GGUF"):
        Expansion.plan(path, SHAPE, "F32")
