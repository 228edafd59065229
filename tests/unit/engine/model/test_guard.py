"""Models that cannot be what their header says: one sentence, before llama.cpp sees them. Unusual ones pass."""

import math
import random
from collections.abc import Mapping
from pathlib import Path

import llama_cpp
import pytest

from services.engine.errors import ModelLoadError
from services.engine.model.cache_shape import cache_shape
from services.engine.model.gguf_file import GgufFile
from services.engine.model.gguf_header import Header, HeaderError
from services.engine.model.guard import check_model
from services.engine.model.model import Model
from services.engine.runtime.memory import layers_that_fit, read_sizes
from services.engine.runtime.runtime import RuntimeOptions
from tests.unit.engine.model.gguf_bytes import (
    DIM,
    FFN,
    FIELDS,
    HEAD,
    NUM_TOKENS,
    TENSORS,
    TensorSpec,
    Typed,
    Value,
    gguf_bytes,
)

NAN, INFINITY = math.nan, math.inf
TOKENS = [f"token {token}" for token in range(NUM_TOKENS)]


def check(fields: Mapping[str, Value], tensors: Mapping[str, TensorSpec] | None = None) -> None:
    """Look at the usual model with these fields, named without the architecture where they are its own."""
    named = {
        key if key.startswith(("general.", "tokenizer.")) else f"llama.{key}": value for key, value in fields.items()
    }
    header = Header(gguf_bytes(FIELDS | named, TENSORS | dict(tensors or {})))
    check_model(header, header.tensors)


def refusal(fields: Mapping[str, Value], tensors: Mapping[str, TensorSpec] | None = None) -> str:
    with pytest.raises(HeaderError) as refused:
        check(fields, tensors)
    sentence = str(refused.value)
    assert len(sentence.splitlines()) == 1
    return sentence


LARGE = 2**32 - 1
# A field that cannot be true, alone or with others, and what the sentence says of it.
LIES: list[tuple[Mapping[str, Value], str]] = [
    ({"block_count": 0}, "llama.block_count is 0: it must be a whole number, 1 to 512"),
    ({"block_count": LARGE}, f"llama.block_count is {LARGE}"),
    ({"block_count": 513}, "llama.block_count is 513"),
    ({"block_count": 1}, "llama.block_count is 1: there are tensors of 2 layers"),
    ({"block_count": "two"}, "llama.block_count is a text"),
    ({"block_count": 2.0}, "llama.block_count is 2.0: it must be a whole number"),
    ({"block_count": Typed(5, -1)}, "llama.block_count is -1"),
    ({"embedding_length": 0}, "llama.embedding_length is 0"),
    ({"embedding_length": LARGE}, f"llama.embedding_length is {LARGE}"),
    ({"embedding_length": 128}, "llama.embedding_length is 128: rows of token_embd.weight have 64 numbers"),
    ({"context_length": 0}, "llama.context_length is 0"),
    ({"context_length": LARGE}, f"llama.context_length is {LARGE}"),
    ({"feed_forward_length": LARGE}, f"llama.feed_forward_length is {LARGE}"),
    ({"feed_forward_length": [FFN] * 3}, "llama.feed_forward_length has 3 numbers: it must have one or 2"),
    ({"attention.head_count": 0}, "llama.attention.head_count is 0 in layer 0, which has attention"),
    ({"attention.head_count": LARGE}, f"llama.attention.head_count is {LARGE}"),
    ({"attention.head_count": [4, 0]}, "llama.attention.head_count is 0 in layer 1, which has attention"),
    ({"attention.head_count": [4, 4, 4]}, "llama.attention.head_count has 3 numbers"),
    ({"attention.head_count": 5}, "llama.rope.dimension_count is 16: it must be even, and at most 12, the length"),
    ({"attention.head_count_kv": 3}, "llama.attention.head_count_kv is 3 in layer 0: 4 heads cannot share as many"),
    ({"attention.head_count_kv": 8}, "llama.attention.head_count_kv is 8 in layer 0"),
    ({"attention.head_count_kv": [2, 3]}, "llama.attention.head_count_kv is 3 in layer 1"),
    ({"attention.head_count_kv": [2, 2, 2, 2]}, "llama.attention.head_count_kv has 4 numbers"),
    ({"attention.head_count_kv": LARGE}, f"llama.attention.head_count_kv is {LARGE}"),
    ({"attention.key_length": 0}, "llama.attention.key_length is 0"),
    ({"attention.key_length": LARGE}, f"llama.attention.key_length is {LARGE}"),
    ({"attention.value_length": LARGE}, f"llama.attention.value_length is {LARGE}"),
    ({"attention.key_length_swa": 0}, "llama.attention.key_length_swa is 0"),
    ({"attention.sliding_window": LARGE}, f"llama.attention.sliding_window is {LARGE}"),
    (
        {"attention.sliding_window": 0, "attention.sliding_window_pattern": [1, 0]},
        "llama.attention.sliding_window is 0, yet 1 layers have a window",
    ),
    ({"attention.sliding_window_pattern": [True] * 3}, "llama.attention.sliding_window_pattern has 3 numbers"),
    ({"attention.shared_kv_layers": 2}, "llama.attention.shared_kv_layers is 2: it must be below 2"),
    ({"nextn_predict_layers": 3}, "llama.nextn_predict_layers is 3: it must be 0 to 2, which is block_count"),
    ({"n_deepstack_layers": LARGE}, f"llama.n_deepstack_layers is {LARGE}"),
    ({"leading_dense_block_count": 3}, "llama.leading_dense_block_count is 3"),
    ({"rope.dimension_count": 8}, "llama.rope.dimension_count is 8: it must be 16, the length of a head"),
    ({"rope.dimension_count": 18}, "llama.rope.dimension_count is 18: it must be even, and at most 16"),
    ({"rope.dimension_count": 15}, "llama.rope.dimension_count is 15: it must be even"),
    ({"rope.dimension_count": LARGE}, f"llama.rope.dimension_count is {LARGE}"),
    ({"rope.dimension_sections": [Typed(5, number) for number in (8, -8, 0, 0)]}, "rope.dimension_sections is -8"),
    ({"rope.freq_base": 0.0}, "llama.rope.freq_base is 0.0: it must be more than 0"),
    ({"rope.freq_base": NAN}, "llama.rope.freq_base is nan"),
    ({"rope.freq_base": INFINITY}, "llama.rope.freq_base is inf: it must be a number"),
    ({"rope.freq_base_swa": -1.0}, "llama.rope.freq_base_swa is -1.0"),
    ({"rope.scaling.factor": NAN}, "llama.rope.scaling.factor is nan"),
    ({"rope.scaling.factor": -1.0}, "llama.rope.scaling.factor is -1.0"),
    ({"rope.scaling.type": "cubic"}, "llama.rope.scaling.type is 'cubic': it must be one of none, linear, yarn"),
    ({"rope.scaling.type": 7}, "llama.rope.scaling.type is ''"),
    ({"attention.layer_norm_rms_epsilon": 0.0}, "llama.attention.layer_norm_rms_epsilon is 0.0"),
    ({"attention.layer_norm_rms_epsilon": NAN}, "llama.attention.layer_norm_rms_epsilon is nan"),
    ({"attention.layer_norm_epsilon": -1e-5}, "llama.attention.layer_norm_epsilon is -"),
    ({"attention.scale": NAN}, "llama.attention.scale is nan: it must be a number"),
    ({"swiglu_clamp_exp": [1.0, INFINITY]}, "llama.swiglu_clamp_exp is inf"),
    ({"expert_count": 1025, "expert_used_count": 2}, "llama.expert_count is 1025"),
    ({"expert_count": 8}, "llama.expert_used_count is 0: it must be 1 to 8"),
    ({"expert_count": 8, "expert_used_count": 9}, "llama.expert_used_count is 9"),
    ({"expert_count": 8, "expert_used_count": [2, 0]}, "llama.expert_used_count is 0"),
    (
        {"expert_count": 8, "expert_used_count": [0, 0], "expert_feed_forward_length": FFN},
        "llama.expert_used_count is 0 everywhere",
    ),
    ({"expert_used_count": 2}, "llama.expert_used_count is 2: it must be 0 to 0"),
    ({"expert_count": 8, "expert_used_count": 2, "expert_group_count": 8}, "llama.expert_group_count is 8"),
    ({"expert_count": 8, "expert_used_count": 2, "expert_group_count": 3}, "llama.expert_group_count is 3"),
    ({"expert_group_count": 1}, "llama.expert_group_count is 1: 0 experts"),
    ({"expert_count": 8, "expert_used_count": 2, "expert_group_count": 4}, "llama.expert_group_used_count is 0"),
    (
        {"expert_count": 8, "expert_used_count": 2, "expert_group_count": 4, "expert_group_used_count": 4},
        "llama.expert_group_used_count is 4: it must be 1 to 3",
    ),
    ({"ssm.group_count": 0}, "llama.ssm.group_count is 0: it must be more than 0"),
    ({"ssm.inner_size": 0}, "llama.ssm.inner_size is 0"),
    ({"ssm.time_step_rank": 0}, "llama.ssm.time_step_rank is 0"),
    ({"wkv.head_size": 0}, "llama.wkv.head_size is 0"),
    ({"full_attention_interval": 0}, "llama.full_attention_interval is 0"),
    ({"vocab_size": LARGE}, f"llama.vocab_size is {LARGE}"),
    ({"tokenizer.ggml.tokens": []}, "tokenizer.ggml.tokens has no elements"),
    ({"tokenizer.ggml.tokens": TOKENS[:-1]}, "tokenizer.ggml.tokens has 7 elements: token_embd.weight has 8 rows"),
    ({"tokenizer.ggml.tokens": [*TOKENS[:-1], TOKENS[0]]}, "'token 0' twice, as 0 and as 7"),
    ({"tokenizer.ggml.tokens": [*TOKENS[:-1], "token 0\0x"]}, "'token 0' twice, as 0 and as 7"),
    ({"tokenizer.ggml.tokens": ["", *TOKENS[:-2], "[EMPTY_0]"]}, "'[EMPTY_0]' twice, as 0 and as 7"),
    ({"tokenizer.ggml.tokens": [*TOKENS[:-2], b"\xff", b"\xff"]}, "twice, as 6 and as 7"),
    ({"tokenizer.ggml.scores": [0.0]}, "tokenizer.ggml.scores has 1 elements"),
    ({"tokenizer.ggml.token_type": [Typed(5, 1)]}, "tokenizer.ggml.token_type has 1 elements"),
    *(
        ({f"tokenizer.ggml.{name}_token_id": NUM_TOKENS}, f"tokenizer.ggml.{name}_token_id is 8: it must be 0 to 7")
        for name in ("bos", "eos", "eot", "eom")
    ),
]


@pytest.mark.parametrize(("fields", "expected"), LIES, ids=[f"{sentence[:60]}" for _, sentence in LIES])
def test_a_field_that_lies(fields: Mapping[str, Value], expected: str) -> None:
    assert expected in refusal(fields)


WRONG_TENSORS: list[tuple[Mapping[str, TensorSpec], str]] = [
    ({"output_norm.weight": TensorSpec((DIM,), kind=1)}, "output_norm.weight is of type 1: it must be 0, F32"),
    ({"blk.0.attn_q.bias": TensorSpec((DIM,), kind=30)}, "blk.0.attn_q.bias is of type 30"),
    ({"blk.0.attn_q_norm.weight": TensorSpec((HEAD, 4), kind=1)}, "blk.0.attn_q_norm.weight is of type 1"),
    ({"blk.0.attn_q.weight": TensorSpec((DIM, DIM), kind=26)}, "blk.0.attn_q.weight is of type 26"),
    ({"blk.2.attn_q.weight": TensorSpec((DIM, DIM))}, "llama.block_count is 2: there are tensors of 3 layers"),
    ({"blk.4294967296.a.weight": TensorSpec((DIM, DIM))}, "there are tensors of 4294967297 layers"),
    ({"token_embd.weight": TensorSpec((DIM, 9))}, "tokenizer.ggml.tokens has 8 elements: token_embd.weight has 9 rows"),
    ({"token_embd.weight": TensorSpec((32, 8))}, "llama.embedding_length is 64: rows of token_embd.weight have 32"),
    ({"token_embd.weight": TensorSpec(())}, "rows of token_embd.weight have 1 numbers"),
    ({"output.weight": TensorSpec((DIM, 7))}, "tokenizer.ggml.tokens has 8 elements: output.weight has 7 rows"),
]


@pytest.mark.parametrize(("tensors", "expected"), WRONG_TENSORS, ids=[sentence for _, sentence in WRONG_TENSORS])
def test_a_tensor_that_lies(tensors: Mapping[str, TensorSpec], expected: str) -> None:
    assert expected in refusal({}, tensors)


UNUSUAL: dict[str, Mapping[str, Value]] = {
    "as it is": {},
    "no groups": {"attention.head_count_kv": 4},
    "groups by layer": {"attention.head_count_kv": [1, 4]},
    "a layer without keys": {"attention.head_count_kv": [0, 2]},
    "widths by layer": {"feed_forward_length": [FFN, 0]},
    "window": {"attention.sliding_window": 16, "attention.sliding_window_pattern": [True, False]},
    "window that is not used": {"attention.sliding_window": 0},
    "every second layer has a window": {"attention.sliding_window": 16, "attention.sliding_window_pattern": 2},
    "heads of two lengths": {
        "attention.key_length": 32,
        "attention.key_length_swa": 16,
        "rope.dimension_count": 16,
        "rope.dimension_count_swa": 16,
    },
    "latent attention": {"general.architecture": "deepseek2"},
    "no positions": {"rope.scaling.type": "none"},
    "linear": {"rope.scaling.type": "linear", "rope.scaling.factor": 0.0},
    "sections": {"rope.dimension_sections": [4, 2, 2, 0]},
    "experts": {"expert_count": 8, "expert_used_count": 2},
    "experts in some layers": {"expert_count": 8, "expert_used_count": [0, 2], "expert_feed_forward_length": FFN},
    "groups of experts": {
        "expert_count": 8,
        "expert_used_count": 2,
        "expert_group_count": 4,
        "expert_group_used_count": 2,
    },
    "one group of experts": {"expert_count": 8, "expert_used_count": 2, "expert_group_count": 1},
    "no experts": {"expert_count": 0, "expert_used_count": 0},
    "a layer that looks ahead": {"nextn_predict_layers": 1},
    "a layer that reads another's cache": {"attention.shared_kv_layers": 1},
    "no first token": {"tokenizer.ggml.bos_token_id": LARGE},
    "a token to fill with that there is not": {"tokenizer.ggml.padding_token_id": NUM_TOKENS},
    "more words than tokens": {"vocab_size": NUM_TOKENS + 100},
    "a token without a spelling": {"tokenizer.ggml.tokens": ["", *TOKENS[1:]]},
    "tokens that are no text": {"tokenizer.ggml.tokens": [b"\xff", b"\xfe", *TOKENS[2:]]},
    "fields of others": {"general.weight": NAN, "general.sampling.temp": INFINITY, "general.file_type": LARGE},
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_models_pass(name: str) -> None:
    check(UNUSUAL[name])


def test_unusual_tensors_pass() -> None:
    check({}, {"rope_freqs.weight": TensorSpec((8,)), "output.weight": TensorSpec((DIM, NUM_TOKENS), kind=8)})
    check({}, {"d2t": TensorSpec((8,), kind=27), "blk.1.ffn_gate_tid2eid.weight": TensorSpec((2, 8), kind=26)})
    # Of a layer that keeps a state, as Kimi K3 has them.
    no_heads = {"attention.head_count": [4, 0], "attention.head_count_kv": [2, 0]}
    check(no_heads, {"blk.1.ssm_conv1d_q.weight": TensorSpec((DIM,))})


def test_what_is_missing_is_left_to_llama_cpp() -> None:
    for key in FIELDS:
        header = Header(gguf_bytes({name: value for name, value in FIELDS.items() if name != key}))
        check_model(header, header.tensors)
    for fields in ({}, {"general.architecture": 5}, {"general.architecture": ["llama"]}):
        header = Header(gguf_bytes(fields, {}))
        check_model(header, header.tensors)


def test_whichever_numbers_are_damaged(tmp_path: Path) -> None:
    """Seeded: what is refused is refused with a sentence, and what passes can be counted with."""
    rng = random.Random(2)
    numbers = [key for key, value in FIELDS.items() if isinstance(value, int | float)]
    more = ["expert_count", "expert_used_count", "attention.key_length", "nextn_predict_layers", "ssm.group_count"]
    path = tmp_path / "model.gguf"
    num_refused = 0
    for _ in range(400):
        changes: dict[str, Value] = {}
        for key in rng.sample([*numbers, *(f"llama.{name}" for name in more)], rng.choice((1, 1, 2, 3))):
            values: list[Value] = [
                0,
                1,
                2,
                3,
                7,
                16,
                64,
                2**16,
                2**31,
                LARGE,
                0.0,
                NAN,
                INFINITY,
                -1.0,
                "text",
                [],
                [1, 2],
            ]
            changes[key] = rng.choice([*values, Typed(5, -1), Typed(11, -(2**63)), Typed(10, 2**64 - 1), [2] * 513])
        path.write_bytes(gguf_bytes(FIELDS | changes))
        try:
            with GgufFile(path) as file:
                shape = cache_shape(file)
        except ModelLoadError as error:
            num_refused += 1
            assert str(path) in str(error)
            assert len(str(error).splitlines()) == 1
            continue
        assert shape.num_layers <= 512
        assert layers_that_fit(read_sizes(path), RuntimeOptions(num_slots=1, context_length=32), 1 << 20) >= -1
    assert 150 < num_refused < 400


def test_llama_cpp_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(FIELDS | {"llama.block_count": 3.5}))
    monkeypatch.setattr(llama_cpp, "llama_model_load_from_file", lambda *_: pytest.fail("it was"))
    with pytest.raises(ModelLoadError, match=r"cannot load model .*: llama\.block_count is 3\.5"):
        Model(path)
