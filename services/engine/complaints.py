"""What llama.cpp says when something fails: kept for the exception that follows, and never printed as it comes."""

import ctypes
import os
import threading

import llama_cpp
from llama_cpp._ggml import libggml

from services.frame.printable import one_line

_GGML_LOG_LEVEL_ERROR = 4
_STDERR = 2

_complaints = threading.local()


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def keep_complaint(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    """Keep the first error line, which is the one that knows why; print nothing."""
    if level == _GGML_LOG_LEVEL_ERROR and not getattr(_complaints, "text", ""):
        _complaints.text = text.decode(errors="replace").strip()


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)  # type: ignore[untyped-decorator]
def _end(message: bytes) -> None:
    """Say in one line why llama.cpp gives up on the whole process, and end it; by itself it would add a stack trace."""
    reason = message.decode(errors="replace").rpartition("/")[2]
    os.write(_STDERR, f"llama.cpp cannot go on: {one_line(reason)}\n".encode())
    os._exit(1)


libggml.ggml_set_abort_callback(_end)
llama_cpp.llama_log_set(keep_complaint, ctypes.c_void_p(0))


def take_complaint() -> str:
    """Return why llama.cpp failed on this thread, and forget it."""
    text: str = getattr(_complaints, "text", "")
    _complaints.text = ""
    return text or "llama.cpp gave no reason"
