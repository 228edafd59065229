"""Writing and reading llama-architecture files, and refusing what is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter

from models.llama_gguf import (
    LlamaConfig,
    LlamaFile,
    ModelFileError,
    Vocabulary,
    read_llama,
    tensor_shapes,
    write_llama,
)
from models.llama_gguf.config import FloatArray
from models.tiny import tiny_vocabulary

CONFIG = LlamaConfig(
    dim=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    ffn=96,
    vocab_size=300,
    context_length=777,
    rms_eps=2e-6,
    rope_theta=5e5,
)
VOCABULARY = replace(tiny_vocabulary(300), chat_template="{{ messages }}")
TYPE_ERROR = {"F32": 0.0, "F16": 2e-3, "BF16": 2e-2, "Q8_0": 2e-2}


def random_tensors(config: LlamaConfig = CONFIG, *, is_tied: bool = True) -> dict[str, FloatArray]:
    random = np.random.default_rng(7)
    shapes = tensor_shapes(config, is_tied=is_tied)
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def write(path: Path, file_type: str = "F32") -> Path:
    write_llama(path, CONFIG, random_tensors(), VOCABULARY, name="test", file_type=file_type)
    return path


@pytest.mark.parametrize("file_type", TYPE_ERROR)
@pytest.mark.parametrize("is_tied", [True, False])
def test_what_is_written_is_read_back(tmp_path: Path, file_type: str, is_tied: bool) -> None:
    tensors = random_tensors(is_tied=is_tied)
    path = tmp_path / "model.gguf"
    write_llama(path, CONFIG, tensors, VOCABULARY, name="test", file_type=file_type)

    config, read, vocabulary = read_llama(path)

    assert replace(config, rms_eps=CONFIG.rms_eps) == CONFIG
    assert config.rms_eps == pytest.approx(CONFIG.rms_eps, rel=1e-6)
    assert vocabulary == replace(VOCABULARY, token_types=VOCABULARY.types())
    assert list(read) == list(tensors)
    for name, values in tensors.items():
        tolerance = 0.0 if values.ndim == 1 else TYPE_ERROR[file_type]
        np.testing.assert_allclose(read[name], values, rtol=0, atol=tolerance * float(np.abs(values).max()))


def test_matrices_take_the_type_and_norms_stay_f32(tmp_path: Path) -> None:
    file = LlamaFile(write(tmp_path / "model.gguf", "Q8_0"))

    assert file.tensor_type("token_embd.weight") == file.tensor_type("blk.1.ffn_down.weight") == "Q8_0"
    assert file.tensor_type("output_norm.weight") == file.tensor_type("blk.0.attn_norm.weight") == "F32"
    assert file.fields["general.file_type"].value == 7


def test_metadata_is_added(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_llama(path, CONFIG, random_tensors(), VOCABULARY, name="test", metadata={"general.license": "apache-2.0"})

    assert LlamaFile(path).fields["general.license"].value == "apache-2.0"


def broken_parts() -> dict[str, tuple[dict[str, FloatArray], str, str]]:
    """Tensors and type that cannot be written, and what the error says."""
    good = random_tensors()
    narrow = LlamaConfig(dim=48, num_layers=1, num_heads=2, num_kv_heads=2, ffn=64, vocab_size=300)
    return {
        "missing": ({name: good[name] for name in list(good)[:-1]}, "F32", "missing or unknown: blk.1.ffn_down"),
        "unknown": (good | {"blk.0.attn_q.bias": np.ones(64, np.float32)}, "F32", "unknown: blk.0.attn_q.bias"),
        "misshapen": (good | {"blk.1.ffn_up.weight": np.ones((64, 96), np.float32)}, "F32", "has the shape"),
        "not finite": (good | {"output_norm.weight": np.full(64, np.nan, np.float32)}, "F32", "not finite"),
        "too large": (good | {"blk.1.ffn_up.weight": np.full((96, 64), 1e5, np.float32)}, "F16", "too large for F16"),
        "unknown type": (good, "Q9_X", "not as Q9_X"),
        "wrong block": (random_tensors(narrow), "Q8_0", "block of 32"),
    }


@pytest.mark.parametrize("case", broken_parts())
def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path, case: str) -> None:
    tensors, file_type, message = broken_parts()[case]
    config = CONFIG if case != "wrong block" else replace(CONFIG, dim=48, num_heads=2, num_layers=1, ffn=64)
    with pytest.raises(ModelFileError, match=message):
        write_llama(tmp_path / "model.gguf", config, tensors, VOCABULARY, name="test", file_type=file_type)

    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf")
    before = path.read_bytes()
    with pytest.raises(ModelFileError):
        write_llama(path, CONFIG, {}, VOCABULARY, name="test")

    assert path.read_bytes() == before


@pytest.mark.parametrize("kept", [0, 3, 4, 20, 200, 5_000, 20_000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(ModelFileError, match=r"model\.gguf"):
        read_llama(path)


def test_flipped_header_bytes_are_read_or_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf")
    good = path.read_bytes()
    refused = 0
    for offset in np.random.default_rng(0).integers(0, 1200, 60):
        broken = bytearray(good)
        broken[offset] ^= 0xFF
        path.write_bytes(broken)
        try:
            read_llama(path)
        except ModelFileError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("block_count", 2**32 - 1, "block_count is 4294967295, the file has"),
        ("attention.head_count", 0, "num_heads must be at least 1"),
        ("attention.layer_norm_rms_epsilon", float("inf"), None),
    ],
)
def test_a_file_that_lies_is_refused(tmp_path: Path, key: str, value: float, expected: str | None) -> None:
    """At once, whatever it says."""
    path = tmp_path / "model.gguf"
    lies = GGUFWriter(path, "llama")
    read = LlamaFile(write(tmp_path / "true.gguf"))
    for name, field in read.fields.items():
        if name not in ("general.architecture", f"llama.{key}"):
            lies.add_key_value(name, field.value, field.type, field.sub_type)
    lies.add_key_value(f"llama.{key}", value, read.fields[f"llama.{key}"].type)
    for name in tensor_shapes(CONFIG):
        lies.add_tensor(name, read.tensor(name))
    lies.write_header_to_file()
    lies.write_kv_data_to_file()
    lies.write_tensors_to_file()
    lies.close()
    if expected is None:
        LlamaFile(path)
        return
    with pytest.raises(ModelFileError, match=expected):
        LlamaFile(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="No such file"):
        read_llama(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match="cannot read"):
        read_llama(tmp_path)


def test_a_foreign_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    writer = GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()

    with pytest.raises(ModelFileError, match="architecture 'mamba'"):
        LlamaFile(path)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"dim": 65}, "multiple of the number of heads"),
        ({"num_kv_heads": 3}, "evenly"),
        ({"dim": 12, "num_heads": 4}, "even"),
        ({"num_layers": 0}, "at least 1"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **sizes)


def test_a_vocabulary_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="token types"):
        Vocabulary(tokens=["a", "b"], merges=[], token_types=[1])
    with pytest.raises(ValueError, match="eos_id 2"):
        Vocabulary(tokens=["a", "b"], merges=[], eos_id=2)
