"""Whether weights and caches fit into memory, and how much of a model fits onto a GPU."""

from collections.abc import Sequence
from pathlib import Path

import psutil

from services.engine.cache_shape import CacheShape, cache_shape
from services.engine.devices import Accelerator
from services.engine.errors import ModelLoadError
from services.engine.gguf_file import GgufFile
from services.engine.model import Model
from services.engine.runtime import RuntimeOptions

_MEBIBYTE = 1 << 20
# Of a GPU's free memory; what is left is for graphs.
_USABLE_SHARE = 0.8


def free_ram() -> int:
    """Return how many bytes of memory can be had now without anything being swapped out."""
    return psutil.virtual_memory().available


def cache_bytes(model: Model, options: RuntimeOptions) -> int:
    """Return the size of all slots' caches in bytes: keys and values of every layer and position."""
    return sum(_by_layer(model.cache_shape, options))


def layers_that_fit(path: Path, options: RuntimeOptions, free_bytes: int) -> int:
    """Return how many layers of a model, with their caches, fit into a GPU's free memory; -1 is all of them.

    Raises:
        ModelLoadError: the file cannot be read.
    """
    with GgufFile(path) as file:
        shape = cache_shape(file)
        weights_bytes = sum(part.stat().st_size for part in file.parts())
    # The output counts as a layer: it is about as large.
    num_layers = shape.num_layers + 1
    layer_bytes = max(1, (weights_bytes + sum(_by_layer(shape, options))) // num_layers)
    num_fitting = int(free_bytes * _USABLE_SHARE) // layer_bytes
    return -1 if num_fitting >= num_layers else num_fitting


def check_memory(
    model: Model, options: RuntimeOptions, ram_bytes: int, gpus: Sequence[Accelerator], num_gpu_layers: int
) -> None:
    """Refuse caches that do not fit into what is free where their layers are: the last ones on GPUs, the rest in RAM.

    `ram_bytes` were free before the model was loaded, as weights that are mapped from a file count as free ever after;
    `gpus` tell what is free now. Raises ModelLoadError with the arithmetic.
    """
    by_layer = _by_layer(model.cache_shape, options)
    num_layers = model.cache_shape.num_layers + 1
    num_on_gpus = num_layers if num_gpu_layers < 0 else min(num_gpu_layers, num_layers)
    num_in_ram = num_layers - num_on_gpus if gpus else num_layers
    per_token = sum(by_layer) // options.num_positions()
    caches = f"{options.num_slots} slots of {options.context_length} tokens at {per_token} bytes a token need"
    weights_bytes = model.num_bytes * num_in_ram // num_layers
    needed_bytes = sum(by_layer[:num_in_ram])
    if needed_bytes > ram_bytes - weights_bytes:
        raise ModelLoadError(
            f"{caches} {_mib(needed_bytes)} beside {_mib(weights_bytes)} of weights, {_mib(ram_bytes)} are free: "
            "lower --slots or --context"
        )
    needed_bytes, gpu_bytes = sum(by_layer[num_in_ram:]), sum(gpu.free_bytes for gpu in gpus)
    if needed_bytes > gpu_bytes:
        names = ", ".join(gpu.name for gpu in gpus)
        raise ModelLoadError(
            f"{caches} {_mib(needed_bytes)} on {names}, {_mib(gpu_bytes)} are free there: "
            "lower --slots, --context or --gpu-layers"
        )


def _by_layer(shape: CacheShape, options: RuntimeOptions) -> list[int]:
    """Return the bytes of all slots' caches for each layer."""
    element_bytes = 4 if options.cache_in_f32 else 2
    elements = shape.elements(flash_attention=options.flash_attention)
    return [options.num_positions() * element_bytes * num_elements for num_elements in elements]


def _mib(num_bytes: int) -> str:
    return f"{num_bytes // _MEBIBYTE} MiB"
