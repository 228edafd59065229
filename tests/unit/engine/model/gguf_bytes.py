"""GGUF files made in memory, true or not: only what checks them reads them, never llama.cpp."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

ALIGNMENT = 32
DIM, HEAD, FFN, NUM_LAYERS, NUM_TOKENS = 64, 16, 128, 2, 8
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
TEXT, LIST = 8, 9
_BLOCKS = {0: (1, 4), 1: (1, 2), 8: (32, 34), 26: (1, 4), 27: (1, 8), 30: (1, 2)}


@dataclass(frozen=True)
class Typed:
    """A value of one of gguf.h's types."""

    kind: int
    value: object


Value = str | bytes | bool | int | float | Sequence[object] | Typed


@dataclass(frozen=True)
class TensorSpec:
    """What a header says of a tensor; `offset` only where it lies."""

    shape: tuple[int, ...]
    kind: int = 0
    offset: int | None = None


def llama_fields() -> dict[str, Value]:
    """A small model of the usual kind, with attention in groups."""
    sizes: dict[str, Value] = {
        "block_count": NUM_LAYERS,
        "context_length": 2048,
        "embedding_length": DIM,
        "feed_forward_length": FFN,
        "attention.head_count": DIM // HEAD,
        "attention.head_count_kv": DIM // HEAD // 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": HEAD,
        "rope.freq_base": 10000.0,
    }
    return {
        "general.architecture": "llama",
        **{f"llama.{name}": value for name, value in sizes.items()},
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [f"token {token}" for token in range(NUM_TOKENS)],
        "tokenizer.ggml.scores": [0.0] * NUM_TOKENS,
        "tokenizer.ggml.token_type": [Typed(5, 1)] * NUM_TOKENS,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def llama_tensors() -> dict[str, TensorSpec]:
    """The tensors of that model."""
    rows = DIM // HEAD // 2 * HEAD
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (DIM,),
        "attn_q": (DIM, DIM),
        "attn_k": (DIM, rows),
        "attn_v": (DIM, rows),
        "attn_output": (DIM, DIM),
        "ffn_norm": (DIM,),
        "ffn_gate": (DIM, FFN),
        "ffn_up": (DIM, FFN),
        "ffn_down": (FFN, DIM),
    }
    tensors = {"token_embd.weight": TensorSpec((DIM, NUM_TOKENS)), "output_norm.weight": TensorSpec((DIM,))}
    for layer in range(NUM_LAYERS):
        tensors |= {f"blk.{layer}.{name}.weight": TensorSpec(shape) for name, shape in shapes.items()}
    return tensors


def gguf_bytes(
    fields: Mapping[str, Value] | None = None,
    tensors: Mapping[str, TensorSpec] | None = None,
    *,
    version: int = 3,
    num_tensors: int | None = None,
    num_fields: int | None = None,
    num_data_bytes: int | None = None,
    alignment: int = ALIGNMENT,
) -> bytes:
    """Return a file whose weights are zeros; numbers that are given replace those that would be right."""
    fields = llama_fields() if fields is None else fields
    tensors = llama_tensors() if tensors is None else tensors
    head = struct.pack(
        "<4sIqq",
        b"GGUF",
        version,
        len(tensors) if num_tensors is None else num_tensors,
        len(fields) if num_fields is None else num_fields,
    )
    head += b"".join(_text(key) + _tagged(value) for key, value in fields.items())
    offset = 0
    for name, tensor in tensors.items():
        head += _text(name) + struct.pack(f"<I{len(tensor.shape)}q", len(tensor.shape), *tensor.shape)
        head += struct.pack("<IQ", tensor.kind, offset if tensor.offset is None else tensor.offset)
        block, block_bytes = _BLOCKS.get(tensor.kind, (1, 4))
        offset = _aligned(offset + max(0, prod(tensor.shape)) // block * block_bytes)
    padding = -len(head) % alignment
    return head + bytes(padding + (offset if num_data_bytes is None else num_data_bytes))


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _text(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def _tagged(value: object) -> bytes:
    if isinstance(value, (list, tuple)):
        items = [_typed(item) for item in value]
        kind = items[0].kind if items else TEXT
        return struct.pack("<IIQ", LIST, kind, len(items)) + b"".join(map(_plain, items))
    typed = _typed(value)
    return struct.pack("<I", typed.kind) + _plain(typed)


def _typed(value: object) -> Typed:
    match value:
        case Typed():
            return value
        case bool():
            return Typed(7, value)
        case int():
            return Typed(4, value)
        case float():
            return Typed(6, value)
        case _:
            return Typed(TEXT, value)


def _plain(typed: Typed) -> bytes:
    if typed.kind == TEXT:
        assert isinstance(typed.value, (str, bytes))
        return _text(typed.value)
    # A type that there is not, or something already written.
    return typed.value if isinstance(typed.value, bytes) else struct.pack("<" + _CODES[typed.kind], typed.value)


# The usual model, whose fields and tensors tests change.
FIELDS, TENSORS = llama_fields(), llama_tensors()
