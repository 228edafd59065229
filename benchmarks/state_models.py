"""Random models of a real size that keep a recurrent state, to measure what that costs; they write nothing sensible.

`python benchmarks/state_models.py FOLDER [--kinds qwen35 granitehybrid] [--file-type BF16]` writes a file of each kind.
The sizes are those of Qwen3.5 0.8B and of Granite 4.0 H 1B, and so is the size of their vocabularies, as the last layer
takes a good part of a decode; the tokenizer is the one of the tiny models (`models/tiny.py`).
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.gguf_writer import GGUFValue
from gguf.quants import quantize

from models.llama_gguf.config import FloatArray, Shapes
from models.llama_gguf.writer import MATRIX_TYPES, vocabulary_fields
from models.tiny import tiny_vocabulary
from services.frame.program.atomic_file import replacing

Field = bool | int | float | list[int]
# What decays in a state, how far: a token's weight is halved after some ten others, as heads of trained models do.
_DECAY, _TIME_STEP_BIAS = -1.0, -2.5


@dataclass(frozen=True)
class Kind:
    """An architecture in the sizes of one of its models: metadata without its prefix, shapes as numpy has them."""

    vocabulary_size: int
    fields: Mapping[str, Field]
    shapes: Shapes


def qwen35() -> Kind:
    """Qwen3.5 0.8B: of four layers three have gated delta rules, one has gated attention; tied embeddings."""
    dim, ffn, num_layers, vocabulary_size = 1024, 3584, 24, 248320
    num_heads, num_kv_heads, head = 8, 2, 256
    num_state_heads, state = 16, 128
    inner = num_state_heads * state
    common: Shapes = {"attn_norm.weight": (dim,), "post_attention_norm.weight": (dim,)} | _feed_forward(dim, ffn)
    attention = common | _attention(dim, 2 * num_heads * head, num_kv_heads * head, num_heads * head)
    attention |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    recurrent: Shapes = common | {
        "attn_qkv.weight": (3 * inner, dim),
        "attn_gate.weight": (inner, dim),
        "ssm_conv1d.weight": (3 * inner, 4),
        "ssm_a": (num_state_heads,),
        "ssm_dt.bias": (num_state_heads,),
        "ssm_alpha.weight": (num_state_heads, dim),
        "ssm_beta.weight": (num_state_heads, dim),
        "ssm_norm.weight": (state,),
        "ssm_out.weight": (dim, inner),
    }
    fields = _sizes(dim, ffn, num_layers) | {
        "attention.head_count": num_heads,
        "attention.head_count_kv": num_kv_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "full_attention_interval": 4,
        "rope.dimension_count": head // 4,
        "rope.dimension_sections": [11, 11, 10, 0],
        "rope.freq_base": 1e7,
        "ssm.inner_size": inner,
        "ssm.conv_kernel": 4,
        "ssm.state_size": state,
        "ssm.time_step_rank": num_state_heads,
        "ssm.group_count": num_state_heads,
    }
    return Kind(
        vocabulary_size,
        fields,
        _whole(dim, vocabulary_size, [attention if index % 4 == 3 else recurrent for index in range(num_layers)]),
    )


def granitehybrid() -> Kind:
    """Granite 4.0 H 1B: 36 layers of Mamba 2, four of attention without positions; tied embeddings."""
    dim, ffn, num_layers, vocabulary_size = 1536, 4096, 40, 100352
    num_heads, num_kv_heads, head = 12, 4, 128
    num_state_heads, state_head, state = 48, 64, 128
    inner = num_state_heads * state_head
    mixed = inner + 2 * state
    common: Shapes = {"attn_norm.weight": (dim,), "ffn_norm.weight": (dim,)} | _feed_forward(dim, ffn)
    attention = common | _attention(dim, num_heads * head, num_kv_heads * head, num_heads * head)
    recurrent: Shapes = common | {
        "ssm_in.weight": (inner + mixed + num_state_heads, dim),
        "ssm_conv1d.weight": (mixed, 4),
        "ssm_conv1d.bias": (mixed,),
        "ssm_a": (num_state_heads, 1),
        "ssm_d": (num_state_heads, 1),
        "ssm_dt.bias": (num_state_heads,),
        "ssm_norm.weight": (1, inner),
        "ssm_out.weight": (dim, inner),
    }
    with_attention = (5, 15, 25, 35)
    fields = _sizes(dim, ffn, num_layers) | {
        "attention.head_count": num_heads,
        "attention.head_count_kv": [num_kv_heads if index in with_attention else 0 for index in range(num_layers)],
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.scale": 1 / head,
        "embedding_scale": 12.0,
        "residual_scale": 0.22,
        "logit_scale": 6.0,
        "rope.dimension_count": head,
        "rope.scaling.finetuned": False,
        "ssm.inner_size": inner,
        "ssm.conv_kernel": 4,
        "ssm.state_size": state,
        "ssm.time_step_rank": num_state_heads,
        "ssm.group_count": 1,
    }
    layers = [attention if index in with_attention else recurrent for index in range(num_layers)]
    return Kind(vocabulary_size, fields, _whole(dim, vocabulary_size, layers))


KINDS: dict[str, Callable[[], Kind]] = {"qwen35": qwen35, "granitehybrid": granitehybrid}


def write(path: Path, architecture: str, file_type: str = "BF16", seed: int = 0) -> None:
    """Write the model of this architecture, matrices in one of MATRIX_TYPES; it is held in memory meanwhile."""
    kind = KINDS[architecture]()
    random = np.random.default_rng(seed)
    with replacing(path) as temporary:
        writer = GGUFWriter(temporary, architecture)
        writer.add_file_type(MATRIX_TYPES[file_type])
        for key, value in kind.fields.items():
            field = _field(value)
            writer.add_key_value(f"{architecture}.{key}", field.value, field.type, field.sub_type)
        for key, field in vocabulary_fields(tiny_vocabulary(kind.vocabulary_size)).items():
            writer.add_key_value(key, field.value, field.type, field.sub_type)
        for name, shape in kind.shapes.items():
            is_matrix = min(shape) > 4 and len(shape) == 2
            stored = GGMLQuantizationType[file_type if is_matrix else "F32"]
            writer.add_tensor(name, quantize(_values(name, shape, random), stored), raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> FloatArray:
    """Return values with which activations stay near 1 through all layers, and states neither grow nor vanish."""
    if name.endswith("norm.weight") or name.endswith("ssm_d"):
        return np.ones(shape, np.float32)
    if name.endswith("ssm_a"):
        return np.full(shape, _DECAY, np.float32)
    if name.endswith("ssm_dt.bias"):
        return np.full(shape, _TIME_STEP_BIAS, np.float32)
    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    return random.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))


def _field(value: Field) -> GGUFValue:
    match value:
        case bool():
            return GGUFValue(value, GGUFValueType.BOOL)
        case int():
            return GGUFValue(value, GGUFValueType.UINT32)
        case float():
            return GGUFValue(value, GGUFValueType.FLOAT32)
        case _:
            return GGUFValue(value, GGUFValueType.ARRAY, GGUFValueType.UINT32)


def _sizes(dim: int, ffn: int, num_layers: int) -> dict[str, Field]:
    return {
        "context_length": 8192,
        "embedding_length": dim,
        "feed_forward_length": ffn,
        "block_count": num_layers,
    }


def _whole(dim: int, vocabulary_size: int, layers: list[Shapes]) -> Shapes:
    shapes: Shapes = {"token_embd.weight": (vocabulary_size, dim), "output_norm.weight": (dim,)}
    return shapes | {f"blk.{index}.{name}": shape for index, each in enumerate(layers) for name, shape in each.items()}


def _attention(dim: int, queries: int, keys: int, values: int) -> Shapes:
    return {
        "attn_q.weight": (queries, dim),
        "attn_k.weight": (keys, dim),
        "attn_v.weight": (keys, dim),
        "attn_output.weight": (dim, values),
    }


def _feed_forward(dim: int, ffn: int) -> Shapes:
    return {"ffn_gate.weight": (ffn, dim), "ffn_up.weight": (ffn, dim), "ffn_down.weight": (dim, ffn)}


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--file-type", choices=MATRIX_TYPES, default="BF16")
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        path = arguments.folder / f"{kind}-{arguments.file_type.lower()}.gguf"
        write(path, kind, arguments.file_type)
        print(path)


if __name__ == "__main__":
    main()
