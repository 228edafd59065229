"""Lines of stdin, waited for in the event loop: in a thread, a signal would have to wait for the next line."""

import asyncio
import os
import sys


class Lines:
    """Lines as they come, from a terminal, a pipe or a file."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._held = b""

    async def next(self) -> str:
        """Return the next line without its end; at the end of stdin what is left, then nothing.

        Raises UnicodeDecodeError for what is no UTF-8.
        """
        while b"\n" not in self._held:
            await self._readable()
            if not (part := os.read(self._fd, 1 << 16)):
                break
            self._held += part
        line, _, self._held = self._held.partition(b"\n")
        return line.decode()

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        try:
            loop.add_reader(self._fd, readable.set)
        except PermissionError:  # a file, which is always readable
            return
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._fd)
