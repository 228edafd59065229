"""Lines of stdin, whatever it is."""

import asyncio
import os
import pty
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.stdin import Lines

SAID = ["first", "", "\N{LATIN SMALL LETTER E WITH ACUTE} third", "last"]
TEXT = "\n".join(SAID).encode()


class Stdin:
    """As much of a stream as is asked for."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


@pytest.fixture
def lines_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Lines]]:
    opened: list[int] = []

    def make(fd: int) -> Lines:
        opened.append(fd)
        monkeypatch.setattr(sys, "stdin", Stdin(fd))
        return Lines()

    yield make
    for fd in opened:
        os.close(fd)


async def test_a_pipe(lines_of: Callable[[int], Lines]) -> None:
    """Several lines that come at once are several all the same."""
    ours, theirs = os.pipe()
    lines = lines_of(ours)
    os.write(theirs, TEXT)
    assert [await lines.next() for _ in range(3)] == SAID[:3]
    waiting = asyncio.create_task(lines.next())
    await asyncio.sleep(0)
    os.close(theirs)
    assert await waiting == "last"
    assert await lines.next() == ""


async def test_a_file(lines_of: Callable[[int], Lines], tmp_path: Path) -> None:
    path = tmp_path / "said.txt"
    path.write_bytes(TEXT)
    lines = lines_of(os.open(path, os.O_RDONLY))
    assert [await lines.next() for _ in range(5)] == [*SAID, ""]


async def test_a_terminal_that_is_waited_for_no_more(lines_of: Callable[[int], Lines]) -> None:
    """A wait that is given up ends at once, and takes no line away from the next one."""
    theirs, ours = pty.openpty()
    lines = lines_of(ours)
    waiting = asyncio.create_task(lines.next())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    os.write(theirs, b"said\n")
    assert await lines.next() == "said"
    os.close(theirs)
