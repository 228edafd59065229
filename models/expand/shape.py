"""To which sizes a model is expanded, in which type, and whether that can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from models.llama_gguf import MATRIX_TYPES, LlamaConfig, tensor_shapes


class ExpansionError(ValueError):
    """An expansion that cannot be; the message is one sentence for a person."""


@dataclass(frozen=True)
class Shape:
    """The sizes that an expansion sets; the head size and the number of query heads per key-value head stay."""

    dim: int
    num_layers: int
    ffn: int


PRESETS: Mapping[str, Shape] = {
    "1b": Shape(dim=2048, num_layers=16, ffn=5632),
    "3b": Shape(dim=3072, num_layers=28, ffn=8192),
    "8b": Shape(dim=4096, num_layers=32, ffn=14336),
    "draft-1b": Shape(dim=512, num_layers=7, ffn=1536),
    "draft-3b": Shape(dim=768, num_layers=13, ffn=2304),
    "draft-8b": Shape(dim=1024, num_layers=15, ffn=4096),
}
"""Named sizes; a draft preset has about a thirtieth of the weights of the target that it is named after."""

LOW_BIT_TYPES: dict[str, LlamaFileType] = {
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "Q4_1": LlamaFileType.MOSTLY_Q4_1,
    "Q5_0": LlamaFileType.MOSTLY_Q5_0,
    "Q5_1": LlamaFileType.MOSTLY_Q5_1,
    "Q2_K": LlamaFileType.MOSTLY_Q2_K,
    "Q3_K_M": LlamaFileType.MOSTLY_Q3_K_M,
    "Q4_K_S": LlamaFileType.MOSTLY_Q4_K_S,
    "Q4_K_M": LlamaFileType.MOSTLY_Q4_K_M,
    "Q5_K_S": LlamaFileType.MOSTLY_Q5_K_S,
    "Q5_K_M": LlamaFileType.MOSTLY_Q5_K_M,
    "Q6_K": LlamaFileType.MOSTLY_Q6_K,
    "IQ4_NL": LlamaFileType.MOSTLY_IQ4_NL,
    "IQ4_XS": LlamaFileType.MOSTLY_IQ4_XS,
}
"""Types that llama.cpp makes from an F16 file."""

TYPES = (*MATRIX_TYPES, *LOW_BIT_TYPES)


def expanded_config(config: LlamaConfig, shape: Shape, file_type: str) -> LlamaConfig:
    """The sizes of the expanded model. Raises ExpansionError where they cannot be reached or stored as `file_type`.

    A root mean square over a vector padded with zeros is sqrt(dim / dim') of what it was, so epsilon, which is added
    to the mean square, shrinks by dim / dim', and every norm weight by its root (see `expanded_tensor`).
    """
    if file_type not in TYPES:
        raise ExpansionError(f"unknown type {file_type!r}: choose one of {', '.join(TYPES)}")
    for what, old, new in (
        ("dim", config.dim, shape.dim),
        ("layers", config.num_layers, shape.num_layers),
        ("ffn", config.ffn, shape.ffn),
    ):
        if new < old:
            raise ExpansionError(f"a model can only be expanded: --{what} {new} is below the model's {old}")
    group = config.num_heads // config.num_kv_heads
    step = config.head_size * group
    if shape.dim % step:
        heads = "the head size" if group == 1 else f"{group} heads that share keys and values"
        raise ExpansionError(f"--dim {shape.dim} is not a multiple of {step}, {heads} of this model")
    block = block_size(file_type)
    for what, size in (("dim", shape.dim), ("ffn", shape.ffn)):
        if size % block:
            raise ExpansionError(f"--{what} {size} is not a multiple of {block}, the block of {file_type}")
    num_heads = shape.dim // config.head_size
    return replace(
        config,
        dim=shape.dim,
        num_layers=shape.num_layers,
        ffn=shape.ffn,
        num_heads=num_heads,
        num_kv_heads=num_heads // group,
        rms_eps=config.rms_eps * config.dim / shape.dim,
    )


def block_size(file_type: str) -> int:
    """How many values of a row are stored together."""
    return GGML_QUANT_SIZES[_base_type(file_type)][0]


def estimated_bytes(config: LlamaConfig, file_type: str, *, is_tied: bool) -> int:
    """About how large the file becomes; low-bit files come out larger, having some matrices in finer types."""
    block, block_bytes = GGML_QUANT_SIZES[_base_type(file_type)]
    return sum(prod(shape) for shape in tensor_shapes(config, is_tied=is_tied).values()) * block_bytes // block


def _base_type(file_type: str) -> GGMLQuantizationType:
    return GGMLQuantizationType[file_type.removesuffix("_S").removesuffix("_M")]  # Q4_K_M is Q4_K, mostly
