"""What llama.cpp says when something fails: kept for the exception that follows, and never printed as it comes."""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import llama_cpp
from llama_cpp._ggml import libggml

from services.frame.program.printable import one_line
from services.frame.program.startup import CODE_REFUSED

_GGML_LOG_LEVEL_ERROR = 4
_STDERR = 2
_CODE_FAILED = 1

_complaints = threading.local()
# What the process says, and its exit code, when llama.cpp gives up on it, in whatever thread.
_last_words = ("", _CODE_FAILED)


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def keep_complaint(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    """Keep the first error line, which is the one that knows why; print nothing."""
    if level == _GGML_LOG_LEVEL_ERROR and not getattr(_complaints, "text", ""):
        _complaints.text = text.decode(errors="replace").strip()


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)  # type: ignore[untyped-decorator]
def _end(message: bytes) -> None:
    """Say in one line why llama.cpp gives up on the whole process, and end it; by itself it would add a stack trace."""
    beginning, code = _last_words
    reason = message.decode(errors="replace").rpartition("/")[2]
    os.write(_STDERR, f"{beginning}llama.cpp cannot go on: {one_line(reason)}\n".encode())
    os._exit(code)


@contextmanager
def ending_refused(sentence: str) -> Iterator[None]:
    """Make a process that llama.cpp gives up on meanwhile end as one that refuses to start, with this `sentence`.

    It would end in the same way whenever it is started again.
    """
    global _last_words  # noqa: PLW0603  one for the process, as its end is
    _last_words = (f"{sentence}: ", CODE_REFUSED)
    try:
        yield
    finally:
        _last_words = ("", _CODE_FAILED)


libggml.ggml_set_abort_callback(_end)
llama_cpp.llama_log_set(keep_complaint, ctypes.c_void_p(0))


def pop_complaint() -> str:
    """Return why llama.cpp failed on this thread, and forget it."""
    text: str = getattr(_complaints, "text", "")
    _complaints.text = ""
    return text or "llama.cpp gave no reason"
