"""Lines of stdin, whatever it is."""

import asyncio
import os
import pty
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.cli.stdin import Lines, read_message

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


@pytest.mark.parametrize(
    ("typed", "messages", "num_more"),
    [
        ("a\nb\n", ["a", "b", ""], 0),
        ('"""def f(\n\n  x):  \n"""\nb\n', ["def f(\n\n  x):", "b", ""], 3),
        ('"""\na\n\n\nb"""\n\n', ["a\n\n\nb", ""], 4),
        ('"""a"""\n', ["a", ""], 0),
        ('"""a\nb', ["a\nb", ""], 1),
        ('say """a\n', ['say """a', ""], 0),
        ('"""\n"""\n', [""], 1),
    ],
)
async def test_several_lines_are_one_message_between_quotes(
    lines_of: Callable[[int], Lines], tmp_path: Path, typed: str, messages: list[str], num_more: int
) -> None:
    path = tmp_path / "said.txt"
    path.write_text(typed)
    lines = lines_of(os.open(path, os.O_RDONLY))
    told: list[None] = []
    assert [await read_message(lines, lambda: told.append(None)) for _ in messages] == messages
    assert len(told) == num_more
