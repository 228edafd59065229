"""Between the fused matrices of training and llama's tensors.

No rows are permuted: training turns neighbouring pairs, as llama.cpp does for this architecture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.llama_gguf import LlamaConfig, ModelFileError, read_llama, tensor_shapes
from models.train.model import CONTEXT, HEAD_SIZE, NORM_EPSILON, ROPE_BASE, Decoder, ModelShape

BLOCK_NAMES = {
    "attn_norm": ("attn_norm",),
    "qkv": ("attn_q", "attn_k", "attn_v"),
    "query": ("attn_q",),
    "key_value": ("attn_k", "attn_v"),
    "out": ("attn_output",),
    "ffn_norm": ("ffn_norm",),
    "gate_up": ("ffn_gate", "ffn_up"),
    "down": ("ffn_down",),
}
"""A block's parameters, and the llama tensors that each is, stacked where there are several."""


def llama_config(shape: ModelShape) -> LlamaConfig:
    """Describe a trained shape as the GGUF writer wants it."""
    return LlamaConfig(
        dim=shape.dim,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        ffn=shape.ffn,
        vocab_size=shape.vocabulary,
        context_length=CONTEXT,
        rms_eps=NORM_EPSILON,
        rope_theta=ROPE_BASE,
    )


def _llama_names(parameter: str) -> tuple[str, ...]:
    """Name the llama tensors of a trained parameter, such as ``blocks.0.qkv``."""
    if parameter == "embedding":
        return ("token_embd.weight",)
    if parameter == "norm":
        return ("output_norm.weight",)
    _, layer, name = parameter.split(".")
    return tuple(f"blk.{layer}.{part}.weight" for part in BLOCK_NAMES[name])


def llama_tensors(shape: ModelShape, state: dict[str, Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    """Take the fused matrices of a trained state apart into llama's tensors."""
    if shape.dim != shape.num_heads * HEAD_SIZE:
        raise ValueError(f"dim {shape.dim} must be {HEAD_SIZE} times the number of heads, {shape.num_heads}")
    tensors: dict[str, npt.NDArray[np.float32]] = {}
    for parameter, value in state.items():
        names = _llama_names(parameter)
        parts = value.unbind(0) if len(names) > 1 else (value,)
        tensors |= {name: part.float().cpu().numpy() for name, part in zip(names, parts, strict=True)}
    return tensors


def load_gguf(path: Path, shape: ModelShape) -> Decoder:
    """Read a model to train on from a GGUF file.

    Where the file has fewer layers than the shape, the ones behind them are new and change nothing yet: what they add
    to the residual stream is zero (Chen et al. 2016, arXiv 1511.05641). Raises ModelFileError where it is unreadable
    or of another shape.
    """
    config, tensors, _ = read_llama(path)
    if not tensor_shapes(config).items() <= tensor_shapes(llama_config(shape)).items():
        raise ModelFileError(f"{path} does not fit a model of {shape}")
    model = Decoder(shape)
    for parameter, value in model.named_parameters():
        parts = [torch.tensor(tensors[name]) for name in _llama_names(parameter) if name in tensors]
        if parts:
            value.data.copy_(torch.stack(parts).view_as(value))
    return model
