"""llama.cpp's evaluation callback: it counts passes, sees what attention gives, and can end the work on a graph."""

import ctypes
import hashlib
from collections.abc import Iterable

import llama_cpp
import numpy as np
from llama_cpp._ggml import libggml_base_path

_library = ctypes.CDLL(str(libggml_base_path / "libggml-base.so"))
_name, _data, _num_elements = _library.ggml_get_name, _library.ggml_get_data, _library.ggml_nelements
_name.argtypes, _name.restype = [ctypes.c_void_p], ctypes.c_char_p
_data.argtypes, _data.restype = [ctypes.c_void_p], ctypes.c_void_p
_num_elements.argtypes, _num_elements.restype = [ctypes.c_void_p], ctypes.c_int64


class Watcher:
    """Counts passes, and where that is wanted digests each row's attention. It slows every decode down.

    Attributes:
        num_passes: graph passes so far: every graph computes its output node once.
        cancels: whether graphs are given up at their first node, which leaves the cache with positions and no content.
        callback: what `cb_eval` of a context is set to; it must live as long as the context.
    """

    def __init__(self, *, digests_attention: bool) -> None:
        """To digest attention, graphs are computed piece by piece, by the same kernels; their data must be in RAM."""
        self.num_passes = 0
        self.cancels = False
        self._digests_attention = digests_attention
        self._rows: dict[tuple[int, int], hashlib.blake2b] = {}

        @llama_cpp.ggml_backend_sched_eval_callback  # type: ignore[untyped-decorator]
        def watch(tensor: int, is_question: bool, _user_data: int) -> bool:
            if self.cancels:
                # ggml asks whether a node is wanted, and for no more nodes once it was told false for one that was.
                return is_question
            name = _name(tensor)
            if is_question:
                self.num_passes += name == b"result_norm"
                return digests_attention and name.startswith(b"kqv_out-")
            values = (ctypes.c_float * _num_elements(tensor)).from_address(_data(tensor))
            by_row = np.frombuffer(values, np.float32).reshape(len(self._rows), -1)
            for row, of_row in zip(self._rows.values(), by_row, strict=True):
                row.update(of_row.tobytes())
            return True

        self.callback = watch

    def begin(self, places: Iterable[tuple[int, int]]) -> None:
        """A pass follows, with a row for each of these slots and positions."""
        if self._digests_attention:
            self._rows = {place: hashlib.blake2b(digest_size=16) for place in places}

    def attention_digest(self, slot: int, position: int) -> bytes:
        """Return a digest of what attention gave in all layers for a row of the last pass; empty if none is taken."""
        return self._rows[slot, position].digest() if self._digests_attention else b""
