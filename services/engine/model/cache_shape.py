"""How many numbers llama.cpp keeps of a sequence, layer by layer: keys and values of each position, and states."""

import math
from collections.abc import Sequence, Set
from dataclasses import dataclass

from services.engine.model.gguf_file import GgufFile

_ELEMENT_BYTES = 4
# Of a saved state, and of each layer that has a part in it (llama_memory_recurrent::state_write).
_HEADER_BYTES, _LAYER_HEADER_BYTES = 28, 24
# Of a layer that keeps a state one tensor is named so.
_STATE_TENSORS = ("ssm_", "shortconv.", "time_mix_")
# Of a layer with attention one of these is there, or both of the next.
_KEY_TENSORS = ("attn_k.weight", "attn_kv_a_mqa.weight")
_FUSED_TENSORS = frozenset({"attn_qkv.weight", "attn_output.weight"})
_INDEX_TENSORS = "indexer."
# An architecture whose layers with a state have the tensors of attention, and this norm.
_LIGHTNING, _LIGHTNING_NORM = "minimax-01", "attn_norm_2.weight"
# Whose index has a value, too, which nobody reads (llama_kv_cache_msa).
_INDEX_WITH_VALUE = "minimax-m3"
# Whose layers have one key more for so many positions (llama_kv_cache_dsv4), and for how many keys they keep rows.
_COMPRESSED = "deepseek4"
_FINE, _COARSE = 4, 128
_NUM_KEPT = {_FINE: 2, _COARSE: 1}


@dataclass(frozen=True)
class CacheShape:
    """Sizes of what each layer keeps: all layers that plain decoding goes through, or the first ones.

    Keys and values are kept of every position, states once for a sequence however long it is.
    """

    num_layers: int
    keys: Sequence[int]
    values: Sequence[int]
    states: Sequence[int] = ()
    # Layers before the output that predict further tokens: they are not loaded, but count among those on a GPU.
    num_skipped: int = 0
    # A sliding window whose keys and values llama.cpp takes for a part of a state when that is saved.
    saved_window: int = 0
    # Of layers with compressed attention: for how many positions such keys are kept once, and their numbers.
    compressed: Sequence[tuple[int, int]] = ()

    def elements(self, *, flash_attention: bool) -> list[int]:
        """Return the numbers that each layer keeps of a position.

        Without flash attention all values are as wide as the widest, but where layers without attention keep a state.
        """
        widest = 0 if flash_attention else max(self.values, default=0)
        keeps_all = not any(self.states)
        return [
            keys + max(values, widest) if keys or keeps_all else 0
            for keys, values in zip(self.keys, self.values, strict=True)
        ]

    def state_bytes(self) -> list[int]:
        """Return the bytes of the state that each layer keeps of a sequence."""
        return [_ELEMENT_BYTES * num_elements for num_elements in self.states or [0] * len(self.keys)]

    def saved_bytes(self) -> int:
        """Return the bytes of a sequence's states when they are saved, 0 where there are none."""
        sizes = [num_bytes + _LAYER_HEADER_BYTES for num_bytes in self.state_bytes() if num_bytes]
        return _HEADER_BYTES + sum(sizes) if sizes else 0


def cache_shape(file: GgufFile) -> CacheShape:
    """Return what a model's header says of its cache, by the rules of llama.cpp (llama_hparams, llama_kv_cache)."""
    architecture = file.text("general.architecture")

    def numbers(key: str, *default: int) -> Sequence[int]:
        return file.integers(f"{architecture}.{key}") or default

    layers = file.layers()
    if architecture == _COMPRESSED:
        return _compressed_shape(file, len(layers))
    num_layers, num_skipped = len(layers), file.num_skipped_layers()
    # Some last layers read another's cache.
    num_cached = max(0, num_layers - num_skipped - numbers("attention.shared_kv_layers", 0)[0])
    num_heads = numbers("attention.head_count", 1)
    num_kv_heads = _by_layer(numbers("attention.head_count_kv", *num_heads), num_layers)
    is_sliding = _by_layer(numbers("attention.sliding_window_pattern", 0), num_layers)
    head_size = numbers("embedding_length", 0)[0] // max(1, num_heads[0])
    tensors = [layer.keys() for layer in layers[:num_cached]]
    has_state = [_has_state(architecture, names) for names in tensors]
    # Where some layers keep a state, others without attention have no cache.
    has_keys = [not any(has_state) or _has_keys(architecture, names) for names in tensors]

    def sizes(kind: str) -> list[int]:
        full = numbers(f"attention.{kind}_length", head_size)[0]
        sliding = numbers(f"attention.{kind}_length_swa", full)[0]
        return [
            num_kv_heads[layer] * (sliding if is_sliding[layer] else full) if has_keys[layer] else 0
            for layer in range(num_cached)
        ]

    # Sparse attention keeps one more key, by which it chooses positions.
    index_size = numbers("attention.indexer.key_length", 0)[0]
    if numbers("attention.indexer.kpool", 0)[0]:
        index_size *= 3  # with its gate and what is pooled
    if architecture == _INDEX_WITH_VALUE:
        index_size += numbers("attention.value_length", head_size)[0]
    has_index = [any(name.startswith(_INDEX_TENSORS) for name in names) for names in tensors]
    keys = [size + index_size * has for size, has in zip(sizes("key"), has_index, strict=True)]
    # Multi-head latent attention reads its values out of the keys.
    is_latent = bool(numbers("attention.value_length_mla"))
    state = _state_elements(file) if any(has_state) else 0
    states = [state if has else 0 for has in has_state]
    for layer in {*numbers("ple.layers")} & {*range(num_cached)}:
        states[layer] += _embedding_state_elements(file)
    return CacheShape(
        num_layers - num_skipped,
        keys,
        [0] * num_cached if is_latent else sizes("value"),
        states,
        num_skipped,
        numbers("attention.sliding_window", 0)[0] if state else 0,
    )


def _state_elements(file: GgufFile) -> int:
    """Return how many numbers a layer keeps as the state of a sequence (n_embd_r and n_embd_s of llama_hparams)."""

    def number(field: str) -> int:
        return file.integer(field, 0)

    length, num_heads = number("embedding_length"), number("attention.head_count")
    if head_size := number("wkv.head_size"):
        return (file.integer("token_shift_count", 2) + head_size) * length
    if file.text("general.architecture") == _LIGHTNING:
        return number("attention.key_length") ** 2 * num_heads
    # A convolution keeps the positions that it sees, but for the oldest one.
    num_before = max(0, number("ssm.conv_kernel") - 1)
    if head_size := number("kda.head_dim"):
        return (3 * (num_before or 3) + head_size) * num_heads * head_size
    inner, state = number("ssm.inner_size"), number("ssm.state_size")
    if kernel := number("shortconv.l_cache"):
        return length * (kernel - 1) + inner * state
    return num_before * (inner + 2 * number("ssm.group_count") * state) + inner * state


def _embedding_state_elements(file: GgufFile) -> int:
    """Return what a layer keeps beside that which looks embeddings up by the last tokens (ple_conv_state)."""
    factors = ("ple.ngram_size", "hyper_connection.count", "embedding_length")
    return math.prod([max(0, file.integer("ple.conv_kernel", 0) - 1), *(file.integer(each, 0) for each in factors)])


def _compressed_shape(file: GgufFile, num_layers: int) -> CacheShape:
    """Return the shape where keys of older positions are compressed, and rows are kept until they can be.

    Keys are values, too. Layers that only predict further tokens have the keys of every position as the others do.
    """
    key, index = file.integer("attention.key_length", 0), file.integer("attention.indexer.key_length", 0)
    keys = key * file.integer("attention.head_count_kv", 1)
    ratios = [*file.integers(f"{_COMPRESSED}.attention.compress_ratios"), *[0] * num_layers][:num_layers]
    kept = {_FINE: (keys + index, key + index), _COARSE: (keys, key)}
    return CacheShape(
        num_layers,
        [keys] * num_layers,
        [0] * num_layers,
        # Two vectors of each row; a layer that compresses less keeps twice as many rows, and they are twice as wide.
        [2 * ratio * _NUM_KEPT[ratio] ** 2 * kept[ratio][1] if ratio in kept else 0 for ratio in ratios],
        saved_window=file.integer("attention.sliding_window", 0),
        compressed=[(ratio, kept[ratio][0]) if ratio in kept else (1, 0) for ratio in ratios],
    )


def _has_state(architecture: str, names: Set[str]) -> bool:
    return _is_lightning(architecture, names) or any(name.startswith(_STATE_TENSORS) for name in names)


def _has_keys(architecture: str, names: Set[str]) -> bool:
    is_fused = names >= _FUSED_TENSORS and not _is_lightning(architecture, names)
    return is_fused or not names.isdisjoint(_KEY_TENSORS)


def _is_lightning(architecture: str, names: Set[str]) -> bool:
    return architecture == _LIGHTNING and _LIGHTNING_NORM in names


def _by_layer(values: Sequence[int], num_layers: int) -> Sequence[int]:
    return values if len(values) > 1 else [values[0]] * num_layers
