"""The accelerators that this build of llama.cpp can use, by the ggml backend's own account."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
from llama_cpp._ggml import libggml

from services.engine.errors import ModelLoadError
from services.engine.model import check_readable, take_complaint

_GPU_TYPES = (1, 2)  # GGML_BACKEND_DEVICE_TYPE_GPU, _IGPU
# What is left of the free memory is for caches and graphs.
_WEIGHTS_SHARE = 0.8


@dataclass(frozen=True)
class Accelerator:
    """A GPU: its name, and its free and whole memory in bytes."""

    name: str
    free_bytes: int
    total_bytes: int


def accelerators() -> list[Accelerator]:
    """Return the GPUs; none where llama.cpp was built without support for them."""
    count, get, kind, describe, memory = _functions()
    found = []
    for index in range(count()):
        device = get(index)
        if kind(device) in _GPU_TYPES:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            memory(device, ctypes.byref(free), ctypes.byref(total))
            found.append(Accelerator(describe(device).decode(), free.value, total.value))
    return found


def layers_that_fit(path: Path, free_bytes: int) -> int:
    """Return how many layers of a model file fit into a GPU's free memory; -1 is all of them.

    Raises:
        ModelLoadError: the file cannot be read.
    """
    num_layers = _number_of_layers(path)
    # Embedding and output count as a layer: they are about as large.
    layer_bytes = path.stat().st_size // (num_layers + 1)
    num_fitting = int(free_bytes * _WEIGHTS_SHARE) // layer_bytes
    return -1 if num_fitting > num_layers else max(0, num_fitting)


def _number_of_layers(path: Path) -> int:
    check_readable(path)
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
    if not handle:
        raise ModelLoadError(f"cannot load model {path}: {take_complaint()}")
    num_layers: int = llama_cpp.llama_model_n_layer(handle)
    llama_cpp.llama_model_free(handle)
    return num_layers


def _functions() -> tuple[Any, ...]:
    """Return ggml's functions on devices, with the types that ctypes cannot know."""
    count, get = libggml.ggml_backend_dev_count, libggml.ggml_backend_dev_get
    kind, describe = libggml.ggml_backend_dev_type, libggml.ggml_backend_dev_description
    memory = libggml.ggml_backend_dev_memory
    count.restype, get.restype, kind.restype, describe.restype, memory.restype = (
        ctypes.c_size_t,
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_char_p,
        None,
    )
    get.argtypes, kind.argtypes, describe.argtypes = [ctypes.c_size_t], [ctypes.c_void_p], [ctypes.c_void_p]
    memory.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)]
    return count, get, kind, describe, memory
