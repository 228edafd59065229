"""The llama architecture in float64 numpy, to say what a file's tensors mean without llama.cpp's rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from models.llama_gguf import LlamaConfig

Array = npt.NDArray[np.float64]


def reference_logits(
    config: LlamaConfig, tensors: Mapping[str, npt.NDArray[np.float32]], tokens: Sequence[int]
) -> Array:
    """Logits [tokens, vocabulary] of every position."""
    weights = {name: values.astype(np.float64) for name, values in tensors.items()}
    embedding = weights["token_embd.weight"]
    stream = embedding[list(tokens)]
    for layer in range(config.num_layers):
        block = {name.split(".")[2]: values for name, values in weights.items() if name.startswith(f"blk.{layer}.")}
        stream = stream + _attention(config, block, _normalised(stream, block["attn_norm"], config.rms_eps))
        hidden = _normalised(stream, block["ffn_norm"], config.rms_eps)
        gate = hidden @ block["ffn_gate"].T
        stream = stream + (gate / (1.0 + np.exp(-gate)) * (hidden @ block["ffn_up"].T)) @ block["ffn_down"].T
    output = weights.get("output.weight", embedding)
    logits: Array = _normalised(stream, weights["output_norm.weight"], config.rms_eps) @ output.T
    return logits


def _normalised(rows: Array, weight: Array, epsilon: float) -> Array:
    scaled: Array = rows / np.sqrt((rows**2).mean(axis=-1, keepdims=True) + epsilon) * weight
    return scaled


def _attention(config: LlamaConfig, block: Mapping[str, Array], rows: Array) -> Array:
    def heads(name: str, count: int) -> Array:
        return (rows @ block[name].T).reshape(len(rows), count, config.head_size).transpose(1, 0, 2)

    group = config.num_heads // config.num_kv_heads
    query = _rotated(heads("attn_q", config.num_heads), config.rope_theta)
    key = _rotated(heads("attn_k", config.num_kv_heads), config.rope_theta).repeat(group, axis=0)
    value = heads("attn_v", config.num_kv_heads).repeat(group, axis=0)
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(config.head_size)
    scores = np.where(np.tri(len(rows), dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    mixed = (shares @ value).transpose(1, 0, 2).reshape(len(rows), -1)
    attended: Array = mixed @ block["attn_output"].T
    return attended


def _rotated(heads: Array, theta: float) -> Array:
    """Rotary positions over neighbouring pairs, as llama.cpp has them for this architecture."""
    _, length, size = heads.shape
    angles = np.arange(length)[:, None] * theta ** (-np.arange(0, size, 2) / size)
    even, odd = heads[..., 0::2], heads[..., 1::2]
    rotated = np.empty_like(heads)
    rotated[..., 0::2] = even * np.cos(angles) - odd * np.sin(angles)
    rotated[..., 1::2] = even * np.sin(angles) + odd * np.cos(angles)
    return rotated
