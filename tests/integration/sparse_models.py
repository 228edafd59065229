"""Tiny random models that choose the positions which they attend to, with experts and what else they are made of."""

from collections.abc import Sequence
from pathlib import Path

from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue

from tests.foreign_models import DIM, FFN, VOCABULARY_SIZE, Field, Shapes, write_model
from tests.integration.unusual_models import EMBEDDING, FEED_FORWARD, attention_shapes, layer_shapes

NUM_EXPERTS = 2
OUTPUT: Shapes = {"output.weight": (VOCABULARY_SIZE, DIM)}
EXPERTS: Shapes = {
    "ffn_gate_inp.weight": (NUM_EXPERTS, DIM),
    "ffn_gate_exps.weight": (NUM_EXPERTS, FFN, DIM),
    "ffn_up_exps.weight": (NUM_EXPERTS, FFN, DIM),
    "ffn_down_exps.weight": (NUM_EXPERTS, DIM, FFN),
    "ffn_gate_shexp.weight": (FFN, DIM),
    "ffn_up_shexp.weight": (FFN, DIM),
    "ffn_down_shexp.weight": (DIM, FFN),
}
EXPERT_FIELDS: dict[str, Field] = {
    "expert_count": NUM_EXPERTS,
    "expert_used_count": NUM_EXPERTS,
    "expert_shared_count": 1,
    "expert_feed_forward_length": FFN,
    "expert_shared_feed_forward_length": FFN,
}
# Of the index by which positions are chosen. llama.cpp rotates 64 numbers of a key at a time.
INDEX_HEADS, INDEX_SIZE = 2, 64
INDEX_FIELDS: dict[str, Field] = {
    "attention.indexer.head_count": INDEX_HEADS,
    "attention.indexer.key_length": INDEX_SIZE,
    "attention.indexer.top_k": 64,
}
INDEX: Shapes = {
    "indexer.q_proj.weight": (INDEX_HEADS * INDEX_SIZE, DIM),
    "indexer.k_proj.weight": (INDEX_SIZE, DIM),
    "indexer.q_norm.weight": (INDEX_SIZE,),
    "indexer.k_norm.weight": (INDEX_SIZE,),
}
# Hidden states that a layer has several of.
NUM_STATES, RANK = 4, 8
WIDE = NUM_STATES * DIM


def minimax_m3(path: Path) -> Path:
    """MiniMax M3: an index from the second layer on, which llama.cpp keeps with values."""
    size = 64
    fields: dict[str, Field] = {
        "leading_dense_block_count": 1,
        "attention.key_length": size,
        "attention.value_length": size,
        "rope.dimension_count": size // 2,
        "attention.indexer.block_size": 4,
        "attention.indexer.local_blocks": 1,
        "expert_gating_func": 2,
    }
    attention = attention_shapes(2, 2, size, size) | {f"attn_{name}_norm.weight": (size,) for name in "qk"}
    sparse = attention | EXPERTS | INDEX | {"ffn_norm.weight": (DIM,), "exp_probs_b.bias": (NUM_EXPERTS,)}
    shapes = EMBEDDING | OUTPUT | layer_shapes(attention | FEED_FORWARD, sparse)
    return write_model(path, "minimax-m3", shapes, fields | EXPERT_FIELDS | INDEX_FIELDS)


def deepseek4(path: Path, ratios: Sequence[int] = (0, 0, 4, 128)) -> Path:
    """DeepSeek 4: windows, in two of four layers beside compressed keys, of 4 positions or of 128."""
    head, rank, num_groups, num_mixed = 64, 16, 2, (2 + NUM_STATES) * NUM_STATES
    fields: dict[str, Field] = {
        "block_count": 4,
        "attention.head_count_kv": 1,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.sliding_window": 16,
        "attention.q_lora_rank": rank,
        "attention.output_group_count": num_groups,
        "attention.output_lora_rank": rank,
        "attention.compress_rope_freq_base": 160000.0,
        "attention.compress_ratios": [*ratios],
        "rope.dimension_count": head // 2,
        "hyper_connection.count": NUM_STATES,
        "hyper_connection.sinkhorn_iterations": 2,
        "hyper_connection.epsilon": 1e-6,
        "hash_layer_count": 0,
        "expert_weights_scale": 1.0,
        "expert_weights_norm": True,
        "expert_gating_func": 4,
        "swiglu_clamp_exp": 10.0,
    }
    every: Shapes = {
        "attn_norm.weight": (DIM,),
        "attn_q_a.weight": (rank, DIM),
        "attn_q_a_norm.weight": (rank,),
        "attn_q_b.weight": (2 * head, rank),
        "attn_kv.weight": (head, DIM),
        "attn_kv_a_norm.weight": (head,),
        "attn_output_a.weight": (num_groups, rank, 2 * head // num_groups),
        "attn_output_b.weight": (DIM, num_groups * rank),
        "attn_sinks.weight": (2,),
        "ffn_norm.weight": (DIM,),
        "exp_probs_b.bias": (NUM_EXPERTS,),
    }
    for name in ("attn", "ffn"):
        every |= {f"hc_{name}_fn.weight": (num_mixed, WIDE), f"hc_{name}_base.weight": (num_mixed,)}
        every |= {f"hc_{name}_scale.weight": (3,)}
    fine = _compressor("attn", 4, 2 * head, head) | _compressor("indexer", 4, 2 * INDEX_SIZE, INDEX_SIZE)
    fine |= {
        "indexer.proj.weight": (INDEX_HEADS, DIM),
        "indexer.attn_q_b.weight": (INDEX_HEADS * INDEX_SIZE, rank),
    }
    layers = [every | EXPERTS | more for more in ({}, {}, fine, _compressor("attn", 128, head, head))]
    output = OUTPUT | {"output_hc_fn.weight": (NUM_STATES, WIDE), "output_hc_base.weight": (NUM_STATES,)}
    shapes = EMBEDDING | output | {"output_hc_scale.weight": (1,)} | layer_shapes(*layers)
    return write_model(path, "deepseek4", shapes, fields | EXPERT_FIELDS | INDEX_FIELDS)


def _compressor(name: str, ratio: int, width: int, size: int) -> Shapes:
    return {
        f"{name}_compressor_kv.weight": (width, DIM),
        f"{name}_compressor_gate.weight": (width, DIM),
        f"{name}_compressor_ape.weight": (ratio, width),
        f"{name}_compressor_norm.weight": (size,),
    }


def qwen4exp(path: Path, embedding_layer: int = 0) -> Path:
    """Qwen 4: a state, and one more of the embeddings that the last tokens look up; an index beside attention."""
    head, state, num_groups, kernel = 64, 32, 2, 4
    inner = num_groups * state
    fields: dict[str, Field] = {
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.recurrent_layers": [1, 0],
        "attention.compress_ratios": [4, 4],
        "rope.dimension_sections": [16, 16, 16, 16],
        "rope.dimension_count": head,
        "hyper_connection.count": NUM_STATES,
        "hyper_connection.low_rank": RANK,
        "ssm.inner_size": inner,
        "ssm.conv_kernel": kernel,
        "ssm.state_size": state,
        "ssm.time_step_rank": num_groups,
        "ssm.group_count": num_groups,
        "ple.layers": [embedding_layer],
        "ple.ngram_size": 3,
        "ple.heads_per_ngram": 2,
        "ple.conv_kernel": kernel,
        "ple.eos_token_id": 0,
        "ple.layer_multipliers": _long([1, 3, 5]),
        "ple.head_offsets": _long([0, 128, 256, 384]),
        "ple.head_vocab_sizes": _long([128, 128, 128, 128]),
        "embedding_length_per_layer_input": DIM // 4,
    }
    every: Shapes = {"ffn_gate_inp_shexp.weight": (DIM,)} | EXPERTS
    for name in ("attn", "ffn"):
        every |= {f"hc_{name}_norm.weight": (NUM_STATES, DIM), f"hc_{name}_inject.weight": (NUM_STATES, WIDE)}
        every |= {f"hc_{name}_down.weight": (RANK, WIDE), f"hc_{name}_up.weight": (WIDE, RANK)}
    recurrent: Shapes = {
        "attn_qkv.weight": (3 * inner, DIM),
        "attn_gate.weight": (inner, DIM),
        "ssm_norm.weight": (state,),
        "ssm_conv1d.weight": (3 * inner, kernel),
        "ssm_dt.bias": (num_groups,),
        "ssm_a": (num_groups,),
        "ssm_alpha.weight": (num_groups, DIM),
        "ssm_beta.weight": (num_groups, DIM),
        "ssm_out.weight": (DIM, inner),
        "ple_key.weight": (WIDE, DIM),
        "ple_value.weight": (DIM, DIM),
        "ple_conv1d.weight": (WIDE, kernel),
    }
    recurrent |= {f"ple_norm_{name}.weight": (NUM_STATES, DIM) for name in ("key", "query", "conv")}
    attention = attention_shapes(2, 2, head, head) | {"attn_q.weight": (2 * 2 * head, DIM)} | INDEX
    attention |= {f"attn_{name}_norm.weight": (head,) for name in "qk"}
    del attention["attn_norm.weight"]
    output: Shapes = {
        "token_embd.weight": (VOCABULARY_SIZE, DIM),
        "per_layer_token_embd.weight": (512, DIM // 4),
        "output_hc_norm.weight": (NUM_STATES, DIM),
        "output_hc_down.weight": (RANK, WIDE),
        "output_hc_up.weight": (WIDE, RANK),
    }
    shapes = OUTPUT | output | layer_shapes(every | recurrent, every | attention)
    return write_model(path, "qwen4exp", shapes, fields | EXPERT_FIELDS | INDEX_FIELDS)


def _long(numbers: list[int]) -> GGUFValue:
    return GGUFValue(numbers, GGUFValueType.ARRAY, GGUFValueType.UINT64)
