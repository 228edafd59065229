"""Tiny random models of many architectures, for tests of what is served and what is refused."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFValueType, GGUFWriter
from gguf.gguf_writer import GGUFValue

from models.llama_gguf.writer import vocabulary_fields
from models.tiny import tiny_vocabulary

VOCABULARY_SIZE = 512
DIM, NUM_LAYERS, NUM_HEADS, FFN = 64, 2, 2, 128
WINDOW = 16

Field = bool | int | float | str | list[int] | GGUFValue
Shapes = dict[str, tuple[int, ...]]

_SIZES: dict[str, Field] = {
    "vocab_size": VOCABULARY_SIZE,
    "context_length": 2048,
    "embedding_length": DIM,
    "block_count": NUM_LAYERS,
    "feed_forward_length": FFN,
    "attention.head_count": NUM_HEADS,
    "attention.head_count_kv": NUM_HEADS,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.layer_norm_epsilon": 1e-5,
}
Tokenizer = dict[str, GGUFValue]
NO_TOKENIZER: Tokenizer = {"tokenizer.ggml.model": GGUFValue("none", GGUFValueType.STRING)}


def tiny_tokenizer() -> Tokenizer:
    """The tokenizer of the tiny models, as fields of a file."""
    return vocabulary_fields(tiny_vocabulary(VOCABULARY_SIZE))


def write_model(
    path: Path,
    architecture: str,
    shapes: Mapping[str, tuple[int, ...]],
    fields: Mapping[str, Field] | None = None,
    *,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Write random tensors of these shapes, ones for norms; `fields` are the architecture's, beside the usual sizes."""
    random = np.random.default_rng(0)
    writer = GGUFWriter(path, architecture)
    for key, value in (_SIZES | dict(fields or {})).items():
        _add(writer, key if key.startswith("general.") else f"{architecture}.{key}", value)
    for key, field in (tokenizer or tiny_tokenizer()).items():
        writer.add_key_value(key, field.value, field.type, field.sub_type)
    for name, shape in shapes.items():
        if name.endswith("ssm_a"):
            # States decay by it; else they would grow beyond all numbers.
            values = -np.exp(random.standard_normal(shape, np.float32))
        elif len(shape) == 1:
            values = np.ones(shape, np.float32)
        else:
            values = random.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama(path: Path, fields: Mapping[str, Field] | None = None, *, tokenizer: Tokenizer | None = None) -> Path:
    """The usual decoder; `fields` or `tokenizer` make it unusual."""
    shapes = _embedding() | _layers(_attention() | _feed_forward("gate", "up", "down"))
    return write_model(path, "llama", shapes, fields, tokenizer=tokenizer)


def embedder(path: Path) -> Path:
    """The usual decoder, said to be one that makes embeddings of texts."""
    shapes = _embedding() | _layers(_attention() | _feed_forward("gate", "up", "down"))
    return write_model(path, "llama-embed", shapes)


def sliding(path: Path) -> Path:
    """Gemma 2: every other layer sees the last WINDOW positions only."""
    layer = _attention() | _feed_forward("gate", "up", "down")
    layer |= {"post_attention_norm.weight": (DIM,), "post_ffw_norm.weight": (DIM,)}
    fields: dict[str, Field] = {
        "attention.sliding_window": WINDOW,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    }
    return write_model(path, "gemma2", _embedding() | _layers(layer), fields)


def sections(path: Path) -> Path:
    """Qwen2-VL: rotary positions in several sections, which llama.cpp keeps apart from plain ones."""
    layer = _attention() | _feed_forward("gate", "up", "down")
    layer |= {f"attn_{name}.bias": (DIM,) for name in "qkv"}
    fields: dict[str, Field] = {"rope.dimension_sections": [4, 6, 6, 0]}
    return write_model(path, "qwen2vl", _embedding() | _layers(layer), fields)


def recurrent(path: Path) -> Path:
    """Mamba: a state instead of a cache."""
    inner, state, rank, kernel = 2 * DIM, 16, 4, 4
    layer: Shapes = {
        "attn_norm.weight": (DIM,),
        "ssm_in.weight": (2 * inner, DIM),
        "ssm_conv1d.weight": (inner, kernel),
        "ssm_conv1d.bias": (inner,),
        "ssm_x.weight": (rank + 2 * state, inner),
        "ssm_dt.weight": (inner, rank),
        "ssm_dt.bias": (inner,),
        "ssm_a": (inner, state),
        "ssm_d": (inner,),
        "ssm_out.weight": (DIM, inner),
    }
    fields: dict[str, Field] = {
        "attention.head_count": 0,
        "ssm.conv_kernel": kernel,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }
    return write_model(path, "mamba", _embedding() | _layers(layer), fields)


def hybrid(path: Path, fields: Mapping[str, Field] | None = None) -> Path:
    """LFM2: a layer with a short convolution, which keeps a state, and one with attention."""
    convolution: Shapes = {
        "attn_norm.weight": (DIM,),
        "shortconv.conv.weight": (DIM, 3),
        "shortconv.in_proj.weight": (3 * DIM, DIM),
        "shortconv.out_proj.weight": (DIM, DIM),
    }
    head = DIM // NUM_HEADS
    attention = _attention() | {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    shapes: Shapes = {"token_embd.weight": (VOCABULARY_SIZE, DIM), "token_embd_norm.weight": (DIM,)}
    for index, layer in enumerate((convolution, attention)):
        whole = layer | _feed_forward("gate", "up", "down")
        shapes |= {f"blk.{index}.{name}": shape for name, shape in whole.items()}
    usual: dict[str, Field] = {"shortconv.l_cache": 3, "attention.head_count_kv": [0, NUM_HEADS]}
    return write_model(path, "lfm2", shapes, usual | dict(fields or {}))


def windowed_hybrid(path: Path) -> Path:
    """LFM2 with attention to the last WINDOW positions only; llama.cpp counts what it keeps of them as state."""
    return hybrid(path, {"attention.sliding_window": WINDOW})


def encoder(path: Path, fields: Mapping[str, Field] | None = None) -> Path:
    """BERT, which reads a text as a whole; real files say so with attention.causal = False."""
    layer = _attention(norm="attn_output_norm") | _feed_forward("up", "down", norm="layer_output_norm")
    layer |= {"attn_output_norm.bias": (DIM,), "layer_output_norm.bias": (DIM,)}
    shapes: Shapes = {"token_embd.weight": (VOCABULARY_SIZE, DIM), "position_embd.weight": (2048, DIM)}
    shapes |= {"token_embd_norm.weight": (DIM,), "token_embd_norm.bias": (DIM,), "token_types.weight": (2, DIM)}
    tokenizer = tiny_tokenizer() | {"tokenizer.ggml.token_type_count": GGUFValue(2, GGUFValueType.UINT32)}
    return write_model(path, "bert", shapes | _layers(layer), fields, tokenizer=tokenizer)


def encoder_decoder(path: Path) -> Path:
    """T5, whose decoder goes on from what an encoder made of the text."""
    shapes: Shapes = {"token_embd.weight": (VOCABULARY_SIZE, DIM)}
    for side in ("enc", "dec"):
        block: Shapes = {f"attn_{name}.weight": (DIM, DIM) for name in ("q", "k", "v", "o")}
        block |= {"attn_norm.weight": (DIM,), "attn_rel_b.weight": (32, NUM_HEADS)}
        if side == "dec":
            block |= {f"cross_attn_{name}.weight": (DIM, DIM) for name in ("q", "k", "v", "o")}
            block |= {"cross_attn_norm.weight": (DIM,)}
        block |= _feed_forward("up", "down")
        shapes |= {f"{side}.output_norm.weight": (DIM,)}
        shapes |= {f"{side}.{name}": shape for name, shape in _layers(block).items()}
    fields: dict[str, Field] = {"attention.relative_buckets_count": 32, "decoder_start_token_id": 0}
    return write_model(path, "t5", shapes, fields)


def _embedding() -> Shapes:
    return {"token_embd.weight": (VOCABULARY_SIZE, DIM), "output_norm.weight": (DIM,)}


def _layers(layer: Shapes) -> Shapes:
    return {f"blk.{index}.{name}": shape for index in range(NUM_LAYERS) for name, shape in layer.items()}


def _attention(norm: str = "attn_norm") -> Shapes:
    return {f"{norm}.weight": (DIM,)} | {f"attn_{name}.weight": (DIM, DIM) for name in ("q", "k", "v", "output")}


def _feed_forward(*names: str, norm: str = "ffn_norm") -> Shapes:
    shapes: Shapes = {f"{norm}.weight": (DIM,)}
    return shapes | {f"ffn_{name}.weight": (DIM, FFN) if name == "down" else (FFN, DIM) for name in names}


def _add(writer: GGUFWriter, key: str, value: Field) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case GGUFValue():
            writer.add_key_value(key, value.value, value.type, value.sub_type)
        case _:
            writer.add_array(key, value)
