"""Writing llama-architecture GGUF files, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.gguf_writer import GGUFValue
from gguf.quants import quantize

from models.llama_gguf.config import ARCHITECTURE, LlamaConfig, ModelFileError, Vocabulary, tensor_shapes
from services.frame.program.atomic_file import replacing

MATRIX_TYPES: dict[str, LlamaFileType] = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}
"""The types in which matrices can be written, and what `general.file_type` says of such a file."""

_LARGEST_F16 = 65504.0
_QUANTIZATION_VERSION = 2
_UINT32, _FLOAT32, _TEXT = GGUFValueType.UINT32, GGUFValueType.FLOAT32, GGUFValueType.STRING


def write_llama(
    path: Path,
    config: LlamaConfig,
    tensors: Mapping[str, npt.NDArray[Any]],
    vocabulary: Vocabulary,
    *,
    name: str,
    file_type: str = "F32",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a whole model; `tensors` in the shapes of `tensor_shapes`, embeddings tied without `output.weight`.

    `file_type` is one of MATRIX_TYPES and holds for matrices; norms are F32 always. `metadata` adds text fields such
    as "general.license". Raises ModelFileError when the parts do not fit each other or the type, OSError when writing
    fails; either way nothing is left behind.
    """
    if len(vocabulary.tokens) != config.vocab_size:
        raise ModelFileError(f"{len(vocabulary.tokens)} tokens for a vocabulary size of {config.vocab_size}")
    shapes = tensor_shapes(config, is_tied="output.weight" not in tensors)
    if unfit := sorted(set(tensors) ^ set(shapes)):
        raise ModelFileError(f"tensors are missing or unknown: {', '.join(unfit[:5])}")
    fields = vocabulary_fields(vocabulary) | {
        key: GGUFValue(text, GGUFValueType.STRING) for key, text in (metadata or {}).items()
    }
    write_tensors(path, config, shapes, lambda tensor: tensors[tensor], fields, name=name, file_type=file_type)


def vocabulary_fields(vocabulary: Vocabulary) -> dict[str, GGUFValue]:
    """The metadata that describes a tokenizer."""
    array, text, integer = GGUFValueType.ARRAY, GGUFValueType.STRING, GGUFValueType.UINT32
    fields = {
        "tokenizer.ggml.model": GGUFValue(vocabulary.model, text),
        "tokenizer.ggml.pre": GGUFValue(vocabulary.pre_tokenizer, text),
        "tokenizer.ggml.tokens": GGUFValue(list(vocabulary.tokens), array, text),
        "tokenizer.ggml.token_type": GGUFValue(vocabulary.types(), array, GGUFValueType.INT32),
        "tokenizer.ggml.merges": GGUFValue(list(vocabulary.merges), array, text),
        "tokenizer.ggml.bos_token_id": GGUFValue(vocabulary.bos_id, integer),
        "tokenizer.ggml.eos_token_id": GGUFValue(vocabulary.eos_id, integer),
        "tokenizer.ggml.add_bos_token": GGUFValue(vocabulary.add_bos, GGUFValueType.BOOL),
    }
    if vocabulary.chat_template:
        fields["tokenizer.chat_template"] = GGUFValue(vocabulary.chat_template, text)
    return fields


def write_tensors(
    path: Path,
    config: LlamaConfig,
    shapes: Mapping[str, tuple[int, ...]],
    produce: Callable[[str], npt.NDArray[Any]],
    fields: Mapping[str, GGUFValue],
    *,
    name: str,
    file_type: str,
) -> None:
    """Writes a model tensor by tensor, holding one at a time: `produce` is asked for each name of `shapes` in order.

    `fields` are written beside those that config, name and type make. Raises as `write_llama` does.
    """
    if file_type not in MATRIX_TYPES:
        raise ModelFileError(f"matrices can be written as {', '.join(MATRIX_TYPES)}, not as {file_type}")
    types = {
        tensor: GGMLQuantizationType[file_type] if len(shape) > 1 else GGMLQuantizationType.F32
        for tensor, shape in shapes.items()
    }
    for tensor, shape in shapes.items():
        block = GGML_QUANT_SIZES[types[tensor]][0]
        if shape[-1] % block:
            raise ModelFileError(
                f"{tensor} has rows of {shape[-1]} values, no multiple of {file_type}'s block of {block}"
            )
    with replacing(path) as temporary:
        writer = GGUFWriter(temporary, ARCHITECTURE)
        try:
            _add_fields(writer, config, shapes, fields, name=name, file_type=file_type)
            for tensor, shape in shapes.items():
                num_bytes = stored_bytes(shape, types[tensor])
                writer.add_tensor_info(tensor, shape, np.dtype(np.float32), num_bytes, raw_dtype=types[tensor])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
        finally:
            writer.close()
        with temporary.open("ab") as file:
            for tensor, shape in shapes.items():
                file.write(bytes(-file.tell() % writer.data_alignment))
                file.write(_encode(tensor, produce(tensor), shape, types[tensor]).data)


def stored_bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """How many bytes a tensor takes in a file."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return prod(shape) // block * block_bytes


def _add_fields(
    writer: GGUFWriter,
    config: LlamaConfig,
    shapes: Mapping[str, tuple[int, ...]],
    fields: Mapping[str, GGUFValue],
    *,
    name: str,
    file_type: str,
) -> None:
    own = {
        "general.type": GGUFValue("model", _TEXT),
        "general.name": GGUFValue(name, _TEXT),
        "general.size_label": GGUFValue(f"{sum(map(prod, shapes.values())) / 1e6:.1f}M", _TEXT),
        "general.file_type": GGUFValue(int(MATRIX_TYPES[file_type]), _UINT32),
        "general.quantization_version": GGUFValue(_QUANTIZATION_VERSION, _UINT32),
        "vocab_size": GGUFValue(config.vocab_size, _UINT32),
        "context_length": GGUFValue(config.context_length, _UINT32),
        "embedding_length": GGUFValue(config.dim, _UINT32),
        "block_count": GGUFValue(config.num_layers, _UINT32),
        "feed_forward_length": GGUFValue(config.ffn, _UINT32),
        "attention.head_count": GGUFValue(config.num_heads, _UINT32),
        "attention.head_count_kv": GGUFValue(config.num_kv_heads, _UINT32),
        "attention.layer_norm_rms_epsilon": GGUFValue(config.rms_eps, _FLOAT32),
        "rope.dimension_count": GGUFValue(config.head_size, _UINT32),
        "rope.freq_base": GGUFValue(config.rope_theta, _FLOAT32),
    }
    own = {key if key.startswith("general.") else f"{ARCHITECTURE}.{key}": value for key, value in own.items()}
    # The writer has set the architecture itself, and lays the tensors out with its own alignment.
    written_elsewhere = {"general.architecture", "general.alignment"}
    for key, value in (dict(fields) | own).items():
        is_empty = value.type is GGUFValueType.ARRAY and not len(value.value)
        if key not in written_elsewhere and not is_empty:
            writer.add_key_value(key, value.value, value.type, value.sub_type)


def _encode(
    name: str, values: npt.NDArray[Any], shape: tuple[int, ...], kind: GGMLQuantizationType
) -> npt.NDArray[Any]:
    if values.shape != shape:
        raise ModelFileError(f"{name} has the shape {values.shape}, not {shape}")
    values = np.ascontiguousarray(values, dtype=np.float32)
    largest = float(np.abs(values).max())
    if not np.isfinite(largest):
        raise ModelFileError(f"{name} has values that are not finite")
    if kind is GGMLQuantizationType.F16 and largest > _LARGEST_F16:
        raise ModelFileError(f"{name} has values too large for F16")
    return np.ascontiguousarray(quantize(values, kind))
