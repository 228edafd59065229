"""Tiny random models whose caches are unlike those of others: by layer, of their own size, shared, latent, states."""

from pathlib import Path

from tests.foreign_models import DIM, FFN, VOCABULARY_SIZE, Field, Shapes, write_model

# Fixed in llama.cpp, whatever a file says.
CHUNK = 8192
EMBEDDING: Shapes = {"token_embd.weight": (VOCABULARY_SIZE, DIM), "output_norm.weight": (DIM,)}
FEED_FORWARD: Shapes = {
    "ffn_norm.weight": (DIM,),
    "ffn_gate.weight": (FFN, DIM),
    "ffn_up.weight": (FFN, DIM),
    "ffn_down.weight": (DIM, FFN),
}


def attention_shapes(num_heads: int, num_kv_heads: int, key_size: int, value_size: int) -> Shapes:
    return {
        "attn_norm.weight": (DIM,),
        "attn_q.weight": (num_heads * key_size, DIM),
        "attn_k.weight": (num_kv_heads * key_size, DIM),
        "attn_v.weight": (num_kv_heads * value_size, DIM),
        "attn_output.weight": (DIM, num_heads * value_size),
    }


def layer_shapes(*layers: Shapes) -> Shapes:
    return {f"blk.{index}.{name}": shape for index, layer in enumerate(layers) for name, shape in layer.items()}


def heads_by_layer(path: Path) -> Path:
    """Grouped attention with other groups in every layer."""
    num_kv_heads = [1, 4, 2]
    fields: dict[str, Field] = {
        "block_count": 3,
        "attention.head_count": 4,
        "attention.head_count_kv": num_kv_heads,
    }
    layers = (attention_shapes(4, number, DIM // 4, DIM // 4) | FEED_FORWARD for number in num_kv_heads)
    return write_model(path, "deci", EMBEDDING | layer_shapes(*layers), fields)


def head_sizes(path: Path) -> Path:
    """MiMo 2: keys and values of sizes of their own, and a last layer that only predicts further tokens."""
    num_kv_heads = [1, 2]
    fields: dict[str, Field] = {
        "block_count": 3,
        "nextn_predict_layers": 1,
        "attention.head_count_kv": [*num_kv_heads, 1],
        "attention.key_length": 48,
        "attention.value_length": 16,
        "attention.sliding_window": 16,
        "attention.sliding_window_pattern": [0, 1, 0],
        "expert_feed_forward_length": FFN,
    }
    layers = (attention_shapes(2, number, 48, 16) | FEED_FORWARD for number in num_kv_heads)
    shapes = EMBEDDING | {"output.weight": (VOCABULARY_SIZE, DIM)} | layer_shapes(*layers)
    return write_model(path, "mimo2", shapes, fields)


def shared_caches(path: Path) -> Path:
    """Gemma 4: other heads inside the window than outside, and last layers that read what earlier ones cached."""
    is_sliding = [1, 0, 1, 0]
    fields: dict[str, Field] = {
        "block_count": 4,
        "attention.head_count_kv": [2, 1, 2, 1],
        "attention.key_length": 64,
        "attention.value_length": 64,
        "attention.key_length_swa": 32,
        "attention.value_length_swa": 32,
        "attention.sliding_window": 16,
        "attention.sliding_window_pattern": is_sliding,
        "attention.shared_kv_layers": 2,
        "embedding_length_per_layer_input": 0,
        "rope.freq_base_swa": 10000.0,
        "rope.dimension_count_swa": 32,
    }
    layers = []
    for sliding in is_sliding:
        size = 32 if sliding else 64
        layer = attention_shapes(2, 2 if sliding else 1, size, size) | FEED_FORWARD
        layer |= {f"attn_{name}_norm.weight": (size,) for name in "qk"}
        layers.append(layer | {"post_attention_norm.weight": (DIM,), "post_ffw_norm.weight": (DIM,)})
    shapes = EMBEDDING | {"rope_freqs.weight": (32,)} | layer_shapes(*layers)
    return write_model(path, "gemma4", shapes, fields)


def latent(path: Path) -> Path:
    """DeepSeek 2: one compressed key for all heads, which the values are read out of."""
    layer, fields = _latent()
    return write_model(path, "deepseek2", EMBEDDING | layer_shapes(layer, layer), fields)


def indexed(path: Path) -> Path:
    """DeepSeek 3.2: beside the compressed key another one, by which few positions are chosen."""
    layer, fields = _latent()
    # llama.cpp rotates 64 numbers of such a key at a time.
    size, num_heads = 64, 4
    fields |= {
        "attention.indexer.head_count": num_heads,
        "attention.indexer.key_length": size,
        "attention.indexer.top_k": 64,
        "expert_gating_func": 1,
    }
    layer |= {
        "indexer.k_norm.weight": (size,),
        "indexer.k_norm.bias": (size,),
        "indexer.proj.weight": (num_heads, DIM),
        "indexer.attn_k.weight": (size, DIM),
        "indexer.attn_q_b.weight": (num_heads * size, 16),
    }
    return write_model(path, "deepseek32", EMBEDDING | layer_shapes(layer, layer), fields)


def _latent() -> tuple[Shapes, dict[str, Field]]:
    """Return a layer and the fields of a model of them."""
    rank, rotary, plain, value = 32, 16, 16, 24
    fields: dict[str, Field] = {
        "attention.head_count_kv": 1,
        "attention.key_length": rank + rotary,
        "attention.value_length": rank,
        "attention.key_length_mla": plain + rotary,
        "attention.value_length_mla": value,
        "attention.q_lora_rank": 16,
        "attention.kv_lora_rank": rank,
        "rope.dimension_count": rotary,
        "leading_dense_block_count": 2,
        "expert_feed_forward_length": FFN,
        "expert_shared_count": 1,
    }
    attention: Shapes = {
        "attn_norm.weight": (DIM,),
        "attn_q_a.weight": (16, DIM),
        "attn_q_a_norm.weight": (16,),
        "attn_q_b.weight": (2 * (plain + rotary), 16),
        "attn_kv_a_mqa.weight": (rank + rotary, DIM),
        "attn_kv_a_norm.weight": (rank,),
        "attn_k_b.weight": (2, rank, plain),
        "attn_v_b.weight": (2, value, rank),
        "attn_output.weight": (DIM, 2 * value),
    }
    return attention | FEED_FORWARD, fields


# Of Mamba 2: what a layer's state is made of.
SSM_INNER, SSM_STATE, SSM_GROUPS, SSM_HEADS, SSM_KERNEL = 2 * DIM, 16, 2, 4, 4
SSM_FIELDS: dict[str, Field] = {
    "ssm.inner_size": SSM_INNER,
    "ssm.state_size": SSM_STATE,
    "ssm.group_count": SSM_GROUPS,
    "ssm.time_step_rank": SSM_HEADS,
    "ssm.conv_kernel": SSM_KERNEL,
}


def _mamba2() -> Shapes:
    convolved = SSM_INNER + 2 * SSM_GROUPS * SSM_STATE
    return {
        "attn_norm.weight": (DIM,),
        "ssm_norm.weight": (SSM_GROUPS, SSM_INNER // SSM_GROUPS),
        "ssm_in.weight": (SSM_INNER + convolved + SSM_HEADS, DIM),
        "ssm_conv1d.weight": (convolved, SSM_KERNEL),
        "ssm_conv1d.bias": (convolved,),
        "ssm_dt.bias": (SSM_HEADS,),
        "ssm_a": (SSM_HEADS, 1),
        "ssm_d": (SSM_HEADS, 1),
        "ssm_out.weight": (DIM, SSM_INNER),
    }


def mamba2(path: Path) -> Path:
    """Mamba 2: states only, though the file has numbers of heads, too."""
    return write_model(path, "mamba2", EMBEDDING | layer_shapes(_mamba2(), _mamba2()), SSM_FIELDS)


def granite_hybrid(path: Path) -> Path:
    """Granite 4: layers with states and layers with attention, told apart by their heads."""
    fields = SSM_FIELDS | {"block_count": 3, "attention.head_count_kv": [0, 1, 0]}
    state, attention = _mamba2() | FEED_FORWARD, attention_shapes(2, 1, DIM // 2, DIM // 2) | FEED_FORWARD
    return write_model(path, "granitehybrid", EMBEDDING | layer_shapes(state, attention, state), fields)


def falcon_h1(path: Path) -> Path:
    """Falcon H1: each layer has attention and a state."""
    layer = _mamba2() | attention_shapes(2, 2, DIM // 2, DIM // 2)
    layer |= {"ffn_norm" if name == "ffn_norm.weight" else name: shape for name, shape in FEED_FORWARD.items()}
    return write_model(path, "falcon-h1", EMBEDDING | layer_shapes(layer, layer), SSM_FIELDS)


def qwen35(path: Path) -> Path:
    """Qwen 3.5: every fourth layer has attention, the others a state; a last layer predicts further tokens."""
    inner, head = SSM_GROUPS * SSM_STATE, DIM // 2
    fields: dict[str, Field] = {"block_count": 5, "nextn_predict_layers": 1, "attention.key_length": head}
    fields |= {"attention.value_length": head, "rope.dimension_sections": [4, 4, 4, 0], "rope.dimension_count": 24}
    fields |= SSM_FIELDS | {"ssm.inner_size": inner, "ssm.time_step_rank": SSM_GROUPS}
    every = {"post_attention_norm.weight": (DIM,), **FEED_FORWARD}
    del every["ffn_norm.weight"]
    state: Shapes = {
        "attn_norm.weight": (DIM,),
        "attn_qkv.weight": (3 * inner, DIM),
        "attn_gate.weight": (inner, DIM),
        "ssm_norm.weight": (SSM_STATE,),
        "ssm_conv1d.weight": (3 * inner, SSM_KERNEL),
        "ssm_dt.bias": (SSM_GROUPS,),
        "ssm_a": (SSM_GROUPS,),
        "ssm_alpha.weight": (SSM_GROUPS, DIM),
        "ssm_beta.weight": (SSM_GROUPS, DIM),
        "ssm_out.weight": (DIM, inner),
    }
    attention = attention_shapes(2, 2, head, head) | {"attn_q.weight": (2 * 2 * head, DIM)}
    attention |= {f"attn_{name}_norm.weight": (head,) for name in "qk"}
    further: Shapes = {f"nextn.{name}.weight": (DIM,) for name in ("enorm", "hnorm", "shared_head_norm")}
    further |= attention | every | {"nextn.eh_proj.weight": (DIM, 2 * DIM)}
    layers = layer_shapes(*[state | every] * 3, attention | every, further)
    return write_model(path, "qwen35", EMBEDDING | layers, fields)


def learned_positions(path: Path, num_positions: int) -> Path:
    """GPT-2, which learned something of every position and knows no others."""
    fields: dict[str, Field] = {"context_length": num_positions}
    block: Shapes = {f"{name}.weight": (DIM,) for name in ("attn_norm", "ffn_norm")}
    matrices = {"attn_qkv": (3 * DIM, DIM), "attn_output": (DIM, DIM), "ffn_up": (FFN, DIM), "ffn_down": (DIM, FFN)}
    block |= {f"{name}.weight": shape for name, shape in matrices.items()}
    block |= {f"{name}.bias": (matrices[name][0],) for name in matrices}
    block |= {f"{name}.bias": (DIM,) for name in ("attn_norm", "ffn_norm")}
    shapes = EMBEDDING | {"position_embd.weight": (num_positions, DIM), "output_norm.bias": (DIM,)}
    return write_model(path, "gpt2", shapes | layer_shapes(block, block), fields)


def chunked(path: Path) -> Path:
    """Llama 4: every fourth layer sees all positions, the others those of their chunk; every second has experts."""
    fields: dict[str, Field] = {
        "context_length": 2 * CHUNK,
        "block_count": 4,
        "attention.sliding_window": CHUNK,
        "expert_count": 2,
        "expert_used_count": 1,
        "expert_feed_forward_length": FFN,
        "interleave_moe_layer_step": 2,
    }
    attention = attention_shapes(2, 2, DIM // 2, DIM // 2)
    experts: Shapes = {"ffn_norm.weight": (DIM,), "ffn_gate_inp.weight": (2, DIM)}
    for name, (rows, columns) in {"gate": (FFN, DIM), "up": (FFN, DIM), "down": (DIM, FFN)}.items():
        experts |= {f"ffn_{name}_exps.weight": (2, rows, columns), f"ffn_{name}_shexp.weight": (rows, columns)}
    layers = layer_shapes(*[attention | FEED_FORWARD, attention | experts] * 2)
    return write_model(path, "llama4", EMBEDDING | layers, fields)
