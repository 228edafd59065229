"""The expanded model, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np

from models.llama_gguf import LlamaConfig, LlamaFile, tensor_shapes, write_tensors
from models.llama_gguf.config import FloatArray

_READ_BY_EXTRA_UNITS = {"attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"}
"""Matrices whose extra rows feed extra heads and feed-forward units: random there, where all else is zero."""


def write_expanded(
    source: LlamaFile, path: Path, config: LlamaConfig, file_type: str, *, seed: int, on_values: Callable[[int], None]
) -> None:
    """Writes `source` expanded to `config`, which `expanded_config` made, one tensor in memory at a time.

    `on_values` is told of each tensor how many values it has. Raises as `write_tensors` does.
    """
    shapes = tensor_shapes(config, is_tied=source.is_tied)

    def produce(name: str) -> FloatArray:
        tensor = expanded_tensor(source, name, shapes[name], seed)
        on_values(tensor.size)
        return tensor

    name = f"{source.name}, expanded to {config.dim}x{config.num_layers}"
    write_tensors(path, config, shapes, produce, source.fields, name=name, file_type=file_type)


def expanded_tensor(source: LlamaFile, name: str, shape: tuple[int, ...], seed: int) -> FloatArray:
    """One tensor of the expanded model, `shape` at least as large as in `source`.

    The old values stay in the first rows and columns. Extra heads, feed-forward units and layers read the residual
    stream through random weights and write nothing back, so that it holds the old values followed by zeros throughout.
    """
    part = name.split(".")[-2]
    is_new = not source.has(name)
    if len(shape) == 1:
        return np.ones(shape, np.float32) if is_new else _expanded_norm(source.tensor(name), shape[0])
    tensor = np.zeros(shape, np.float32)
    num_rows = 0
    if not is_new:
        old = source.tensor(name)
        num_rows = old.shape[0]
        tensor[:num_rows, : old.shape[1]] = old
    if part in _READ_BY_EXTRA_UNITS:
        tensor[num_rows:] = _random_rows((shape[0] - num_rows, shape[1]), seed=(seed, crc32(name.encode())))
    return tensor


def _expanded_norm(weight: FloatArray, dim: int) -> FloatArray:
    """RMSNorm divides by sqrt(mean square + epsilon), which zero padding made sqrt(dim / dim') of what it was."""
    padded = np.zeros(dim, np.float32)
    padded[: weight.size] = weight * np.sqrt(weight.size / dim)
    return padded


def _random_rows(shape: tuple[int, int], seed: tuple[int, int]) -> FloatArray:
    """Dense rows of unit length on average, so that nothing overflows whatever they read."""
    rows = np.random.default_rng(seed).random(shape, np.float32)
    rows -= np.float32(0.5)
    rows *= np.float32(np.sqrt(12.0 / shape[1]))
    return rows
