"""Whether a model's file can be true, asked before llama.cpp sees it, which ends the process for much that is not.

Whatever is allocated by, divided by or counted by is compared with the file's own tensors. What llama.cpp refuses by
itself with a sentence, as shapes that are not those of the architecture, is left to it, and so are fields that are
missing.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from services.engine.model.gguf_header import TEXT, Header, HeaderError, Tensor, shown
from services.engine.model.gguf_rules import Facts, broken_rules

_EMBEDDINGS, _OUTPUT = "token_embd.weight", "output.weight"
_TOKENS = "tokenizer.ggml.tokens"
_LAYER = re.compile(r"blk\.(\d+)\.(.*)")
_ATTENTION = re.compile(r"attn_(q|k|qkv)\.weight")
# Of no token, as some files say.
_NO_TOKEN = 2**32 - 1
_SCALINGS = ("none", "linear", "yarn", "longrope")
# A number for each layer, where they are lists.
_BY_LAYER = (
    "attention.head_count",
    "attention.head_count_kv",
    "attention.sliding_window_pattern",
    "expert_feed_forward_length",
    "expert_used_count",
    "feed_forward_length",
)
_F32 = 0
# Whole numbers, numbers of 8 bytes, and what activations are quantized to.
_NO_WEIGHTS = (9, 15, 24, 25, 26, 27, 28)
_HOLD_IDS = ("d2t", "ffn_gate_tid2eid.weight")
# They take a single expert for none.
_SINGLE_EXPERT = ("hunyuan-dense", "hunyuan_vl")
# Seen with the llama.cpp of llama-cpp-python 0.3.36.
_ENDS_IN_COMPANY = ("plamo2",)
# They have as many heads in layers with a state as elsewhere.
_COUNTS_HEADS_OF_STATES = ("kimi-linear",)
# Those that llama.cpp, whose version is pinned, computes with heads that are rotated as a whole, and with no others.
_ROTATES_WHOLE_HEADS = frozenset(
    """
    apertus arcee arctic baichuan chameleon codeshell cogvlm cohere2moe dbrx deci deepseek dots1 dream ernie4_5
    ernie4_5-moe exaone exaone-moe exaone4 falcon granite granite_swa graniteswitch grok grovemoe hunyuan-moe
    hunyuan_vl hy_v3 internlm2 jais2 llada llada-moe llama llama4 maincoder mellum mistral3 olmo olmo2 olmoe
    orion paddleocr pangu-embedded plamo pockettts qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3vl qwen3vlmoe
    rnd1 seed_oss smallthinker smollm3 starcoder2 talkie xverse
    """.split()  # noqa: SIM905  names read better than a list of them
)


def check_model(header: Header, tensors: Sequence[Tensor]) -> None:
    """Raise HeaderError for a model that cannot be what its header says; `tensors` are those of all its files."""
    facts = Facts(header, tensors)
    # One after the other: what comes later relies on what comes before.
    problems = chain.from_iterable(check(facts) for check in _CHECKS)
    if problem := next(problems, ""):
        raise HeaderError(problem)


def _company(facts: Facts) -> Iterator[str]:
    if facts.architecture in _ENDS_IN_COMPANY:
        yield f"{facts.architecture} ends llama.cpp where sessions share decodes"


def _finite(facts: Facts) -> Iterator[str]:
    for key, field in facts.header.fields.items():
        if field.kind != TEXT and key.startswith(f"{facts.architecture}."):
            for number in facts.header.numbers(key):
                if not math.isfinite(number):
                    yield f"{key} is {number}: it must be a number"


def _lists(facts: Facts) -> Iterator[str]:
    for field in _BY_LAYER:
        count = len(facts.numbers(field))
        if count > 1 and facts.numbers("block_count") and count != facts.num_layers:
            yield f"{facts.key(field)} has {count} numbers: it must have one or {facts.num_layers}, as block_count says"


def _layers(facts: Facts) -> Iterator[str]:
    highest = max((layer for layer, _ in _tensors_of_layers(facts)), default=-1)
    if facts.numbers("block_count") and highest >= facts.num_layers:
        yield f"{facts.key('block_count')} is {facts.num_layers}: there are tensors of {highest + 1} layers"


def _width(facts: Facts) -> Iterator[str]:
    width, embeddings = facts.integer("embedding_length", 0), facts.tensors.get(_EMBEDDINGS)
    if width and embeddings is not None and not _is_codec(facts) and embeddings.row_length != width:
        yield f"{facts.key('embedding_length')} is {width}: rows of {_EMBEDDINGS} have {embeddings.row_length} numbers"


def _heads(facts: Facts) -> Iterator[str]:
    num_heads = facts.by_layer("attention.head_count", 0)
    num_kv_heads = facts.by_layer("attention.head_count_kv", 0)
    for layer, (heads, kv_heads) in enumerate(zip(num_heads, num_kv_heads, strict=False)):
        if kv_heads and heads % kv_heads:
            key = facts.key("attention.head_count_kv")
            yield f"{key} is {kv_heads} in layer {layer}: {heads} heads cannot share as many"
    if not facts.numbers("attention.head_count"):
        return
    # What goes into a state may be called as what goes into attention, and have no number of heads of its own.
    with_state = {layer for layer, name in _tensors_of_layers(facts) if name.startswith("ssm_")}
    if facts.architecture in _COUNTS_HEADS_OF_STATES:
        with_state = set()
    for layer, name in _tensors_of_layers(facts):
        has_attention = layer not in with_state and _ATTENTION.fullmatch(name)
        if layer < len(num_heads) and not num_heads[layer] and has_attention:
            yield f"{facts.key('attention.head_count')} is 0 in layer {layer}, which has attention"


def _rotation(facts: Facts) -> Iterator[str]:
    size = facts.head_size()
    has_windows = any(facts.numbers(f"{field}_swa") for field in ("attention.key_length", "rope.dimension_count"))
    number = facts.integer("rope.dimension_count", size)
    if size != number and not has_windows and size and facts.architecture in _ROTATES_WHOLE_HEADS:
        yield f"{facts.key('rope.dimension_count')} is {number}: it must be {size}, the length of a head"


def _scaling(facts: Facts) -> Iterator[str]:
    key = facts.key("rope.scaling.type")
    name = facts.header.text(key)
    if key in facts.header.fields and name not in _SCALINGS:
        yield f"{key} is {shown(name)}: it must be one of {', '.join(_SCALINGS)}"


def _window(facts: Facts) -> Iterator[str]:
    pattern = facts.numbers("attention.sliding_window_pattern")
    if facts.numbers("attention.sliding_window") == [0] and len(pattern) > 1 and any(pattern):
        yield f"{facts.key('attention.sliding_window')} is 0, yet {sum(map(bool, pattern))} layers have a window"


def _experts(facts: Facts) -> Iterator[str]:
    num_experts = facts.integer("expert_count", 0)
    if num_experts <= 1 and facts.architecture in _SINGLE_EXPERT:
        return
    key, used = facts.key("expert_used_count"), facts.by_layer("expert_used_count", 0) or [0]
    # Without a length of their own, that of all is divided by how many are used.
    least = 0 if any(facts.numbers("expert_feed_forward_length")) else min(1, num_experts)
    for number in used:
        if not least <= number <= num_experts:
            yield f"{key} is {number}: it must be {least} to {num_experts}, which is expert_count"
    if num_experts and not any(used):
        yield f"{key} is 0 everywhere: expert_count is {num_experts}"


def _expert_groups(facts: Facts) -> Iterator[str]:
    num_experts, num_groups = facts.integer("expert_count", 0), facts.integer("expert_group_count", 0)
    used = facts.integer("expert_group_used_count", 0)
    if num_groups >= max(1, num_experts) or (num_groups and num_experts % num_groups):
        yield f"{facts.key('expert_group_count')} is {num_groups}: {num_experts} experts cannot be parted like that"
    elif num_groups > 1 and not 0 < used < num_groups:
        yield f"{facts.key('expert_group_used_count')} is {used}: it must be 1 to {num_groups - 1}"


def _types(facts: Facts) -> Iterator[str]:
    for name, tensor in facts.tensors.items():
        if name.endswith(_HOLD_IDS):
            continue
        is_vector = len(tensor.shape) <= 1 or name.endswith("_norm.weight")
        if tensor.kind in _NO_WEIGHTS or (is_vector and tensor.kind != _F32):
            must = f"{_F32}, F32" if is_vector else "one that weights have"
            yield f"the tensor {name} is of type {tensor.kind}: it must be {must}"


def _vocabulary(facts: Facts) -> Iterator[str]:
    fields = facts.header.fields
    if _TOKENS not in fields:
        return
    num_tokens = fields[_TOKENS].count
    if not num_tokens:
        yield f"{_TOKENS} has no elements"
    for field in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        if field in fields and fields[field].count < num_tokens:
            yield f"{field} has {fields[field].count} elements: {_TOKENS} has {num_tokens}"
    for name in (_EMBEDDINGS, _OUTPUT):
        tensor = facts.tensors.get(name)
        if tensor is not None and not _is_codec(facts) and tensor.num_rows != num_tokens:
            yield f"{_TOKENS} has {num_tokens} elements: {name} has {tensor.num_rows} rows"


def _special_tokens(facts: Facts) -> Iterator[str]:
    """Those that begin or end a text. Where they are none, llama.cpp takes others without a word."""
    num_tokens = facts.header.fields[_TOKENS].count if _TOKENS in facts.header.fields else 0
    for name in ("bos", "eos", "eot", "eom"):
        key = f"tokenizer.ggml.{name}_token_id"
        for token in facts.header.integers(key):
            if num_tokens and not 0 <= token < num_tokens and token != _NO_TOKEN:
                yield f"{key} is {token}: it must be 0 to {num_tokens - 1}"


def _spellings(facts: Facts) -> Iterator[str]:
    """llama.cpp finds tokens by their spelling, which ends at the first zero, and names those that have none."""
    tokens: dict[bytes, int] = {}
    for token, raw in enumerate(facts.header.texts(_TOKENS)):
        spelling = raw.partition(b"\0")[0] or b"[EMPTY_%d]" % token
        if (first := tokens.setdefault(spelling, token)) != token:
            yield f"{_TOKENS} has {shown(spelling.decode(errors='replace'))} twice, as {first} and as {token}"


def _tensors_of_layers(facts: Facts) -> Iterator[tuple[int, str]]:
    """Return layer and name of the tensors that belong to a layer."""
    for match in filter(None, map(_LAYER.fullmatch, facts.tensors)):
        yield int(match[1]), match[2]


def _is_codec(facts: Facts) -> bool:
    """Whether what comes in and goes out is not as wide as the layers, or of other kinds of tokens."""
    return bool(facts.numbers("features_length"))


_CHECKS: Sequence[Callable[[Facts], Iterator[str]]] = (
    _company,
    broken_rules,
    _finite,
    _lists,
    _layers,
    _width,
    _heads,
    _rotation,
    _scaling,
    _window,
    _experts,
    _expert_groups,
    _types,
    _vocabulary,
    _special_tokens,
    _spellings,
)
