"""The accelerators that this build of llama.cpp can use, by the ggml backend's own account."""

import ctypes
from dataclasses import dataclass
from typing import Any

from llama_cpp._ggml import libggml

_GPU_TYPES = (1, 2)  # GGML_BACKEND_DEVICE_TYPE_GPU, _IGPU


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
