"""Work on texts of callers, which may be long enough to keep others waiting, or to exhaust a thread's stack."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from services.frame.rpc.errors import invalid_argument

T = TypeVar("T")

# Characters, or ids, that take about a millisecond.
_SHORT_TEXT = 4096
# For many vocabularies llama.cpp splits text with a recursive regular expression, some 300 bytes of stack a character
# of a word or a space. The stack takes three times the longest run that is let through; memory is used when it is.
_LONGEST_RUN = 200_000
_STACK_BYTES = 192 << 20


class TextThread:
    """A thread with a stack for tokenizing."""

    def __init__(self) -> None:
        usual = threading.stack_size(_STACK_BYTES)
        try:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="texts")
            # The thread is made with the first work that it gets.
            self._executor.submit(int).result()
        finally:
            threading.stack_size(usual)

    async def run(self, size: int, work: Callable[[], T]) -> T:
        """Return what `work` makes of so many characters or ids: at once where they are few, else from the thread.

        Raises:
            Exception: whatever `work` raised.
        """
        if size <= _SHORT_TEXT:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def longest_run(text: str) -> int:
    """Return the number of bytes of the longest part of `text` without ASCII white space, or of nothing else."""
    if not text:
        return 0
    is_space = np.frombuffer(text.encode(), np.uint8) <= ord(" ")
    last_of_runs = np.flatnonzero(is_space[1:] != is_space[:-1])
    return int(np.diff(last_of_runs, prepend=-1, append=len(is_space) - 1).max())


def check_text(text: str, field: str) -> None:
    """Raise ServiceError, about a field, for too many bytes without white space, or of nothing else."""
    # A character has at most four bytes.
    longest = longest_run(text) if 4 * len(text) > _LONGEST_RUN else 0
    if longest > _LONGEST_RUN:
        raise invalid_argument(
            "INVALID_REQUEST",
            field,
            f"a text has {longest} bytes without, or of nothing but, white space: at most {_LONGEST_RUN} are taken",
        )
