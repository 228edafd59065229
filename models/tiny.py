"""Tiny random models with a real tokenizer, of any vocabulary and type: for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

import numpy as np

from models.llama_gguf import LlamaConfig, Vocabulary, tensor_shapes, write_llama
from models.llama_gguf.config import FloatArray

BOS_ID, EOS_ID = 0, 1
_SPECIAL_TOKENS = ("<|begin|>", "<|end|>")
_SMALLEST_VOCABULARY = len(_SPECIAL_TOKENS) + 256
# Ġ stands for a space; the rest are the most frequent letters of English text and code, most frequent first.
_MERGED_LETTERS = "Ġetaosinrlcdpmfu"
_PADDING_LETTERS = "abcdefghijklmnopqrstuvwxyz_"

_LOGIT_SPREAD = 4.0
"""Standard deviation of a model's logits: high enough that one token mostly stands out, as in a trained model."""
_UNLIKELY = 0.35
"""Output scale of bytes that are no printable ASCII, so that generated text is mostly readable."""


def write_tiny_pair(
    folder: Path,
    *,
    seed: int = 0,
    vocab_size: int = 512,
    context_length: int = 2048,
    agreement: float = 0.75,
    file_type: str = "F32",
) -> tuple[Path, Path]:
    """Writes `target.gguf` and `draft.gguf` into `folder`, which must exist; returns their paths.

    The target has two layers; the draft is the target without its second one, so it is cheaper and agrees often, not
    always. The second layer's output is scaled by 1 - `agreement`: 1 makes the two agree everywhere, 0 seldom.
    """
    vocabulary = tiny_vocabulary(vocab_size)
    config = _config(vocab_size=vocab_size, dim=64, num_layers=2, context_length=context_length)
    tensors = _random_tensors(config, seed)
    for name in ("attn_output", "ffn_down"):
        tensors[f"blk.1.{name}.weight"] *= np.float32(1.0 - agreement)
    target, draft = folder / "target.gguf", folder / "draft.gguf"
    write_llama(target, config, tensors, vocabulary, name="tiny-target", file_type=file_type)
    draft_config = _config(vocab_size=vocab_size, dim=64, num_layers=1, context_length=context_length)
    draft_tensors = {name: tensors[name] for name in tensor_shapes(draft_config, is_tied=False)}
    write_llama(draft, draft_config, draft_tensors, vocabulary, name="tiny-draft", file_type=file_type)
    return target, draft


def write_tiny_model(
    path: Path,
    *,
    seed: int = 0,
    vocab_size: int = 512,
    dim: int = 64,
    num_layers: int = 2,
    ffn: int | None = None,
    num_kv_heads: int | None = None,
    context_length: int = 2048,
    is_tied: bool = False,
    file_type: str = "F32",
) -> Path:
    """Writes one random model with heads of 32 dimensions and returns `path`. Raises as write_llama does."""
    config = _config(vocab_size, dim, num_layers, context_length, ffn=ffn, num_kv_heads=num_kv_heads)
    tensors = _random_tensors(config, seed)
    if is_tied:
        tensors["token_embd.weight"] = tensors.pop("output.weight")
    write_llama(path, config, tensors, tiny_vocabulary(vocab_size), name="tiny", file_type=file_type)
    return path


def tiny_vocabulary(size: int) -> Vocabulary:
    """A byte-level BPE of `size` tokens: BOS (id 0), EOS (id 1), the 256 bytes, then merges of frequent letters.

    Beyond a few hundred tokens the merges are all short words over a to z and _, so every id can be reached from text.
    Raises ValueError for a size below 258 or above some 20 million.
    """
    if size < _SMALLEST_VOCABULARY:
        raise ValueError(f"a byte-level vocabulary has at least {_SMALLEST_VOCABULARY} tokens, not {size}")
    tokens = [*_SPECIAL_TOKENS, *byte_alphabet()]
    known = set(tokens)
    merges: list[str] = []
    for left, right in islice(_merge_candidates(), size * 4):
        if len(tokens) == size:
            break
        if left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
            merges.append(f"{left} {right}")
    if len(tokens) < size:
        raise ValueError(f"there are no merges for a vocabulary of {size} tokens")
    return Vocabulary(tokens=tokens, merges=merges, bos_id=BOS_ID, eos_id=EOS_ID)


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte 0 to 255 (`bytes_to_unicode` of its published encoder)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    shifted = iter(range(256, 512))
    is_printable = set(printable)
    return [chr(byte) if byte in is_printable else chr(next(shifted)) for byte in range(256)]


def _merge_candidates() -> Iterator[tuple[str, str]]:
    yield "Ġ", "Ġ"
    yield "ĠĠ", "ĠĠ"
    # A space only ever starts a word: GPT-2's pre-tokenizer splits before it.
    yield from product(_MERGED_LETTERS, _MERGED_LETTERS[1:])
    pairs = [left + right for left, right in product(_PADDING_LETTERS, repeat=2)]
    yield from product(_PADDING_LETTERS, _PADDING_LETTERS)
    yield from product(pairs, _PADDING_LETTERS)
    yield from product(pairs, pairs)
    triples = [pair + letter for pair, letter in product(pairs, _PADDING_LETTERS)]
    yield from product(triples, pairs)


def _config(
    vocab_size: int,
    dim: int,
    num_layers: int,
    context_length: int,
    *,
    ffn: int | None = None,
    num_kv_heads: int | None = None,
) -> LlamaConfig:
    num_heads = max(1, dim // 32)
    return LlamaConfig(
        dim=dim,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads or num_heads,
        ffn=ffn or 2 * dim,
        vocab_size=vocab_size,
        context_length=context_length,
    )


def _random_tensors(config: LlamaConfig, seed: int) -> dict[str, FloatArray]:
    random = np.random.default_rng(seed)
    tensors: dict[str, FloatArray] = {}
    for name, shape in tensor_shapes(config, is_tied=False).items():
        if len(shape) == 1:
            tensors[name] = np.ones(shape, dtype=np.float32)
        else:
            tensors[name] = random.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[-1]))
    for layer in range(config.num_layers):
        # Attention weighs its own position against the others only when queries and keys are large, and text stops
        # repeating only when what was attended to counts as much as the token itself.
        tensors[f"blk.{layer}.attn_q.weight"] *= np.float32(2.0)
        tensors[f"blk.{layer}.attn_output.weight"] *= np.float32(2.0)
    tensors["token_embd.weight"] *= np.float32(np.sqrt(config.dim))
    output = tensors["output.weight"]
    output *= np.float32(_LOGIT_SPREAD)
    for index, character in enumerate(byte_alphabet(), start=len(_SPECIAL_TOKENS)):
        byte = index - len(_SPECIAL_TOKENS)
        if not (32 <= byte < 127 or character == "Ċ"):
            output[index] *= np.float32(_UNLIKELY)
    output[BOS_ID] = 0.0
    output[EOS_ID] *= np.float32(_UNLIKELY)
    return tensors
