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
    """Sizes of one model; heads are always 64 wide."""

    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ffn: int
    vocabulary: int = 4096


TARGET_SHAPE = ModelShape(dim=384, num_layers=8, num_heads=6, num_kv_heads=6, ffn=1024)
DRAFT_SHAPE = ModelShape(dim=256, num_layers=2, num_heads=4, num_kv_heads=2, ffn=640)


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
        self.num_heads, self.num_kv_heads = shape.num_heads, shape.num_kv_heads
        self.attn_norm = nn.Parameter(torch.ones(dim))
        self.ffn_norm = nn.Parameter(torch.ones(dim))
        if shape.num_kv_heads == shape.num_heads:
            self.qkv = nn.Parameter(torch.randn(3, width, dim) * dim**-0.5)
        else:
            self.query = nn.Parameter(torch.randn(width, dim) * dim**-0.5)
            self.key_value = nn.Parameter(torch.randn(2, shape.num_kv_heads * HEAD_SIZE, dim) * dim**-0.5)
        self.out = nn.Parameter(torch.zeros(dim, width))
        self.gate_up = nn.Parameter(torch.randn(2, shape.ffn, dim) * dim**-0.5)
        self.down = nn.Parameter(torch.zeros(dim, shape.ffn))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Tensor | None = None, start: int = 0) -> Tensor:
        """Map x (batch, time, dim); a cache (2, batch, key-value heads, positions, 64) gets the new rows from start."""
        time = x.shape[1]
        normed = F.rms_norm(x, (x.shape[-1],), self.attn_norm, NORM_EPSILON)
        if self.num_kv_heads == self.num_heads:
            heads = F.linear(normed, self.qkv.flatten(0, 1)).unflatten(-1, (3, self.num_heads, HEAD_SIZE))
            query, key, value = heads.unbind(2)
        else:
            query = F.linear(normed, self.query).unflatten(-1, (self.num_heads, HEAD_SIZE))
            heads = F.linear(normed, self.key_value.flatten(0, 1)).unflatten(-1, (2, self.num_kv_heads, HEAD_SIZE))
            key, value = heads.unbind(2)
        query, key = rotate(query, cos, sin).transpose(1, 2), rotate(key, cos, sin).transpose(1, 2)
        value = value.transpose(1, 2)
        if cache is not None:
            cache[0, :, :, start : start + time], cache[1, :, :, start : start + time] = key, value
            key, value = cache[0, :, :, : start + time], cache[1, :, :, : start + time]
        if self.num_kv_heads != self.num_heads:
            key, value = (t.repeat_interleave(self.num_heads // self.num_kv_heads, 1) for t in (key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=start == 0)
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

    def states(self, ids: Tensor, cache: Tensor | None = None, start: int = 0) -> Tensor:
        """Map ids (batch, time) at positions ``start`` on to normed final states (batch, time, dim).

        ``cache`` (layers, 2, batch, key-value heads, positions, 64) holds keys and values before ``start`` and gets the
        new ones; with one, ids are either the beginning or a single column.
        """
        end = start + ids.shape[1]
        cos, sin = self.cos[start:end], self.sin[start:end]
        x = F.embedding(ids, self.embedding).float()
        for index, block in enumerate(self.blocks):
            x = block(x, cos, sin, cache[index] if cache is not None else None, start)
        return F.rms_norm(x, (x.shape[-1],), self.norm, NORM_EPSILON)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (batch, time) to logits (batch, time, vocabulary)."""
        return F.linear(self.states(ids), self.embedding)

    def new_cache(self, batch: int, positions: int) -> Tensor:
        """An empty cache for states()."""
        shape, heads = self.shape, self.shape.num_kv_heads
        size = (shape.num_layers, 2, batch, heads, positions, HEAD_SIZE)
        return torch.zeros(size, dtype=torch.bfloat16, device=self.embedding.device)


def num_parameters(model: nn.Module) -> int:
    """Count the trained numbers of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def with_half_matrices(model: Decoder) -> Decoder:
    """Turn a model's matrices into bfloat16 for good, so that autocast need not do it at every call."""
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data = parameter.data.bfloat16()
    return model.eval().requires_grad_(False)
