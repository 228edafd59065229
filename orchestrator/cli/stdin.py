"""Lines of stdin, waited for in the event loop: in a thread, a signal would have to wait for the next line."""

import asyncio
import os
import sys
from collections.abc import Callable

_QUOTES = '"""'


class Lines:
    """Lines as they come, from a terminal, a pipe or a file."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._held = b""
        # Set once there is nothing left but what is held.
        self.has_ended = False

    async def next(self) -> str:
        """Return the next line without its end; at the end of stdin what is left, then nothing.

        Raises UnicodeDecodeError for what is no UTF-8.
        """
        while b"\n" not in self._held:
            await self._readable()
            if not (part := os.read(self._fd, 1 << 16)):
                self.has_ended = True
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


async def read_message(lines: Lines, on_more: Callable[[], object]) -> str:
    """Return a line, or several between lines that begin and end with three double quotes; empty at the end of stdin.

    `on_more` is called before each further line. What is left open at the end of stdin is a message as well. Raises
    UnicodeDecodeError.
    """
    line = (await lines.next()).strip()
    if not line.startswith(_QUOTES):
        return line
    said = line.removeprefix(_QUOTES)
    while not said.endswith(_QUOTES) and not lines.has_ended:
        on_more()
        said = f"{said}\n{(await lines.next()).rstrip()}"
    return said.removesuffix(_QUOTES).strip("\n")
