"""How many numbers llama.cpp's cache holds for one position of a sequence, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.engine.model.gguf_file import GgufFile


@dataclass(frozen=True)
class CacheShape:
    """Sizes of the keys and of the values of each layer that has a cache: all layers of a model, or the first ones."""

    num_layers: int
    keys: Sequence[int]
    values: Sequence[int]

    def elements(self, *, flash_attention: bool) -> list[int]:
        """Return the numbers that each layer keeps; without flash attention all values are as wide as the widest."""
        widest = 0 if flash_attention else max(self.values, default=0)
        return [keys + max(values, widest) for keys, values in zip(self.keys, self.values, strict=True)]


def cache_shape(file: GgufFile) -> CacheShape:
    """Return what a model's metadata say of its cache, by the rules of llama.cpp (llama_hparams, llama_kv_cache)."""
    architecture = file.text("general.architecture")

    def numbers(key: str, *default: int) -> Sequence[int]:
        return file.integers(f"{architecture}.{key}") or default

    num_layers = numbers("block_count", 0)[0]
    # Layers that predict further tokens take no part in plain decoding, and some last layers read another's cache.
    num_cached = num_layers - numbers("nextn_predict_layers", 0)[0] - numbers("attention.shared_kv_layers", 0)[0]
    num_heads = numbers("attention.head_count", 1)
    num_kv_heads = _by_layer(numbers("attention.head_count_kv", *num_heads), num_layers)
    is_sliding = _by_layer(numbers("attention.sliding_window_pattern", 0), num_layers)
    head_size = numbers("embedding_length", 0)[0] // max(1, num_heads[0])

    def sizes(kind: str) -> list[int]:
        full = numbers(f"attention.{kind}_length", head_size)[0]
        sliding = numbers(f"attention.{kind}_length_swa", full)[0]
        return [num_kv_heads[layer] * (sliding if is_sliding[layer] else full) for layer in range(num_cached)]

    keys = sizes("key")
    # Multi-head latent attention reads its values out of the keys.
    is_latent = bool(numbers("attention.value_length_mla"))
    return CacheShape(num_layers, keys, [0] * num_cached if is_latent else sizes("value"))


def _by_layer(values: Sequence[int], num_layers: int) -> Sequence[int]:
    return values if len(values) > 1 else [values[0]] * num_layers
