"""A llama-architecture decoder in PyTorch, laid out for training: fused projections, interleaved rotary embedding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_SIZE = 64
NORM_EPSILON = 1e-5
ROPE_BASE = 10000.0
CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of one model; heads are always 64 wide, key and value heads as many as query heads."""

    dim: int
    num_layers: int
    num_heads: int
    ffn: int
    vocabulary: int = 4096


TARGET_SHAPE = ModelShape(dim=384, num_layers=6, num_heads=6, ffn=1024)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn neighbouring pairs of x (batch, time, heads, 64) by their position's angles (time, 32)."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


class Block(nn.Module):
    """Attention and a SwiGLU feed-forward, each behind an RMS norm and added to the residual stream."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        dim, width = shape.dim, shape.num_heads * HEAD_SIZE
        self.num_heads = shape.num_heads
        self.attn_norm = nn.Parameter(torch.ones(dim))
        self.ffn_norm = nn.Parameter(torch.ones(dim))
        self.qkv = nn.Parameter(torch.randn(3, width, dim) * dim**-0.5)
        self.out = nn.Parameter(torch.zeros(dim, width))
        self.gate_up = nn.Parameter(torch.randn(2, shape.ffn, dim) * dim**-0.5)
        self.down = nn.Parameter(torch.zeros(dim, shape.ffn))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        """Map x (batch, time, dim); with a cache [keys, values] the new rows are appended and seen by one new row."""
        normed = F.rms_norm(x, (x.shape[-1],), self.attn_norm, NORM_EPSILON)
        heads = F.linear(normed, self.qkv.flatten(0, 1)).unflatten(-1, (3, self.num_heads, HEAD_SIZE))
        query, key, value = heads.unbind(2)
        query, key = rotate(query, cos, sin).transpose(1, 2), rotate(key, cos, sin).transpose(1, 2)
        value = value.transpose(1, 2)
        is_causal = True
        if cache is not None:
            if cache:
                key, value = torch.cat((cache[0], key), 2), torch.cat((cache[1], value), 2)
            cache[:] = [key, value]
            is_causal = query.shape[2] == key.shape[2]
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
        x = x + F.linear(mixed.transpose(1, 2).flatten(2), self.out)
        normed = F.rms_norm(x, (x.shape[-1],), self.ffn_norm, NORM_EPSILON)
        gate, up = F.linear(normed, self.gate_up.flatten(0, 1)).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, self.down)


class Decoder(nn.Module):
    """The whole model; the output matrix is the embedding matrix."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.vocabulary, shape.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.num_layers))
        self.norm = nn.Parameter(torch.ones(shape.dim))
        angles = torch.outer(torch.arange(CONTEXT).float(), ROPE_BASE ** (-torch.arange(0, HEAD_SIZE, 2) / HEAD_SIZE))
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, ids: Tensor, caches: list[list[Tensor]] | None = None) -> Tensor:
        """Map ids (batch, time) to logits (batch, time, vocabulary).

        ``caches``, one list per layer, empty at first, carries keys and values; after the first call one id per row.
        """
        start = caches[0][0].shape[2] if caches and caches[0] else 0
        cos, sin = self.cos[start : start + ids.shape[1]], self.sin[start : start + ids.shape[1]]
        x = F.embedding(ids, self.embedding)
        for index, block in enumerate(self.blocks):
            x = block(x, cos, sin, caches[index] if caches is not None else None)
        return F.linear(F.rms_norm(x, (x.shape[-1],), self.norm, NORM_EPSILON), self.embedding)


def num_parameters(model: nn.Module) -> int:
    """Count the trained numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters())
