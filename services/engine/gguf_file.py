"""What a GGUF file says of itself, read with ggml's own functions: llama.cpp passes on neither lists nor parts."""

import ctypes
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from llama_cpp._ggml import libggml_base_path

from services.engine.complaints import keep_complaint, take_complaint
from services.engine.errors import ModelLoadError

_MAGIC = b"GGUF"
# gguf.h's types of values: integers, a text, a list.
_INTEGERS = {
    0: np.uint8,
    1: np.int8,
    2: np.uint16,
    3: np.int16,
    4: np.uint32,
    5: np.int32,
    7: np.uint8,  # a bool
    10: np.uint64,
    11: np.int64,
}
_TEXT, _LIST = 8, 9


class GgufFile:
    """The metadata of an opened file; tensors stay on disk. Use it in a `with` statement."""

    def __init__(self, path: Path) -> None:
        """Read the metadata of `path`. Raises ModelLoadError when it is missing, unreadable or no GGUF file."""
        check_readable(path)
        self.path = path
        self._handle = _library.gguf_init_from_file(os.fsencode(path), _InitParameters(no_alloc=True))
        if not self._handle:
            raise ModelLoadError(f"cannot load model {path}: {take_complaint()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _library.gguf_free(self._handle)

    def text(self, key: str) -> str:
        """Return a text, empty when absent."""
        index = _library.gguf_find_key(self._handle, key.encode())
        if index < 0 or _library.gguf_get_kv_type(self._handle, index) != _TEXT:
            return ""
        value: bytes = _library.gguf_get_val_str(self._handle, index)
        return value.decode(errors="replace")

    def integers(self, key: str) -> list[int]:
        """Return a list of integers, with one element for a single number; empty when absent or of another type."""
        index = _library.gguf_find_key(self._handle, key.encode())
        if index < 0:
            return []
        kind, length, address_of = _library.gguf_get_kv_type(self._handle, index), 1, _library.gguf_get_val_data
        if kind == _LIST:
            kind, length = (read(self._handle, index) for read in (_library.gguf_get_arr_type, _library.gguf_get_arr_n))
            address_of = _library.gguf_get_arr_data
        if kind not in _INTEGERS or not length:
            return []
        dtype = np.dtype(_INTEGERS[kind])
        values: list[int] = np.frombuffer(
            ctypes.string_at(address_of(self._handle, index), length * dtype.itemsize), dtype
        ).tolist()
        return values

    def integer(self, key: str, default: int) -> int:
        """Return a single number, of a list the first."""
        return next(iter(self.integers(key)), default)

    def parts(self) -> list[Path]:
        """Return the files that the model consists of, this one first.

        A large model comes as NAME-00001-of-00003.gguf and so on, and is loaded by the name of the first part. Raises
        ModelLoadError for another part, and where one is missing.
        """
        num_parts = self.integer("split.count", 1)
        if num_parts <= 1:
            return [self.path]
        first = _part_ending(0, num_parts)
        if not self.path.name.endswith(first):
            raise ModelLoadError(f"{self.path} is part of a model: name its first part, which ends in {first}")
        prefix = str(self.path).removesuffix(first)
        parts = [Path(prefix + _part_ending(number, num_parts)) for number in range(num_parts)]
        for part in parts:
            check_readable(part)
        return parts


def check_readable(path: Path) -> None:
    """Raise ModelLoadError for a path that is no readable GGUF file."""
    try:
        # Whoever opens a pipe waits until somebody writes into it.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelLoadError(f"cannot read model {path}: it is not a file")
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise ModelLoadError(f"cannot read model {path}: {error.strerror}") from error
    if magic != _MAGIC:
        raise ModelLoadError(f"{path} is not a GGUF file")


def _part_ending(number: int, num_parts: int) -> str:
    return f"-{number + 1:05d}-of-{num_parts:05d}.gguf"


class _InitParameters(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def _load_library() -> Any:
    """Return ggml's base library with the types that ctypes cannot know."""
    library = ctypes.CDLL(str(libggml_base_path / "libggml-base.so"))
    key = [ctypes.c_void_p, ctypes.c_int64]
    for name, result, arguments in (
        ("gguf_init_from_file", ctypes.c_void_p, [ctypes.c_char_p, _InitParameters]),
        ("gguf_free", None, [ctypes.c_void_p]),
        ("gguf_find_key", ctypes.c_int64, [ctypes.c_void_p, ctypes.c_char_p]),
        ("gguf_get_kv_type", ctypes.c_int, key),
        ("gguf_get_arr_type", ctypes.c_int, key),
        ("gguf_get_arr_n", ctypes.c_size_t, key),
        ("gguf_get_arr_data", ctypes.c_void_p, key),
        ("gguf_get_val_data", ctypes.c_void_p, key),
        ("gguf_get_val_str", ctypes.c_char_p, key),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    # An installed package holds copies instead of links: this one is not the one that llama.cpp uses and sets up.
    library.ggml_log_set(keep_complaint, None)
    return library


_library = _load_library()
