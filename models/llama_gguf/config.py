"""What a llama-architecture model consists of: sizes, tokenizer, tensor shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf import TokenType

ARCHITECTURE = "llama"
FloatArray = npt.NDArray[np.float32]
Shapes = dict[str, tuple[int, ...]]


class ModelFileError(ValueError):
    """A model file is missing, corrupt, of a foreign architecture, or cannot be written in the form asked for.

    The message is one sentence for a person.
    """


@dataclass(frozen=True)
class LlamaConfig:
    """The sizes of a llama-architecture model. Raises ValueError where they contradict each other."""

    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ffn: int
    vocab_size: int
    context_length: int = 2048
    rms_eps: float = 1e-5
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "num_kv_heads", "ffn", "vocab_size", "context_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.dim % self.num_heads:
            raise ValueError(f"dim {self.dim} is not a multiple of the number of heads, {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads cannot share {self.num_kv_heads} key-value heads evenly")
        if self.head_size % 2:
            raise ValueError(f"the head size must be even for rotary positions, not {self.head_size}")

    @property
    def head_size(self) -> int:
        return self.dim // self.num_heads

    @property
    def kv_dim(self) -> int:
        return self.head_size * self.num_kv_heads


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE tokenizer as GGUF stores it: tokens in GPT-2's printable byte alphabet, merges "left right".

    `token_types` are gguf.TokenType values; left empty, BOS and EOS are control tokens and all others normal.
    Raises ValueError where the parts contradict each other.
    """

    tokens: Sequence[str]
    merges: Sequence[str]
    token_types: Sequence[int] = ()
    bos_id: int = 0
    eos_id: int = 0
    add_bos: bool = True
    model: str = "gpt2"
    pre_tokenizer: str = "gpt-2"
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.token_types and len(self.token_types) != len(self.tokens):
            raise ValueError(f"{len(self.tokens)} tokens but {len(self.token_types)} token types")
        for name in ("bos_id", "eos_id"):
            if not 0 <= getattr(self, name) < len(self.tokens):
                raise ValueError(f"{name} {getattr(self, name)} is outside the vocabulary of {len(self.tokens)} tokens")

    def types(self) -> list[int]:
        """The type of every token."""
        if self.token_types:
            return [int(kind) for kind in self.token_types]
        special = {self.bos_id, self.eos_id}
        return [int(TokenType.CONTROL if i in special else TokenType.NORMAL) for i in range(len(self.tokens))]


def tensor_shapes(config: LlamaConfig, *, is_tied: bool = True) -> Shapes:
    """Name and shape (rows = outputs, columns = inputs) of every tensor, in file order; tied: no `output.weight`."""
    dim, kv_dim, ffn = config.dim, config.kv_dim, config.ffn
    shapes: Shapes = {"token_embd.weight": (config.vocab_size, dim), "output_norm.weight": (dim,)}
    if not is_tied:
        shapes["output.weight"] = (config.vocab_size, dim)
    for layer in range(config.num_layers):
        block = f"blk.{layer}."
        shapes |= {
            f"{block}attn_norm.weight": (dim,),
            f"{block}attn_q.weight": (dim, dim),
            f"{block}attn_k.weight": (kv_dim, dim),
            f"{block}attn_v.weight": (kv_dim, dim),
            f"{block}attn_output.weight": (dim, dim),
            f"{block}ffn_norm.weight": (dim,),
            f"{block}ffn_gate.weight": (ffn, dim),
            f"{block}ffn_up.weight": (ffn, dim),
            f"{block}ffn_down.weight": (dim, ffn),
        }
    return shapes
