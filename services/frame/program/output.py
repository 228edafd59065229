"""The standard streams of a program: they take any text, and a failure to write is one sentence and exit code 1."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from services.frame.program.printable import one_line

CODE_FAILED = 1
CODE_INTERRUPTED = 130


class OutputError(Exception):
    """Stdout cannot be written to. The text is one sentence."""


class _Stdout(io.FileIO):
    """Raises OutputError where it cannot be written to, so that this can be told from every other OSError."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"cannot write to stdout: {error.strerror}") from error


@contextmanager
def guarded_output(program: str) -> Iterator[None]:
    """Guard the whole life of a program: as a block around it, or as a decorator of its `main`.

    Where stdout cannot be written to, the process ends with exit code 1 and a sentence on stderr, or without the
    sentence where the reader of a pipe has seen enough. Ctrl-C ends it without a word and with 130.
    """
    _open_streams()
    try:
        try:
            yield
        finally:
            # At exit it would be too late to say what is wrong.
            _flush_stderr()
            sys.stdout.flush()
    except KeyboardInterrupt:  # before or after the time in which signals are handled
        sys.exit(CODE_INTERRUPTED)
    except BrokenPipeError:
        _abandon(sys.stdout)
        sys.exit(CODE_FAILED)
    except OutputError as error:
        _abandon(sys.stdout)
        say(program, str(error))
        sys.exit(CODE_FAILED)


def say(program: str, sentence: str) -> None:
    """Write `program: sentence` to stderr, as one line. Where stderr cannot be written to, the exit code has to do."""
    with suppress(OSError):
        print(f"{program}: {one_line(sentence)}", file=sys.stderr)
    _flush_stderr()


def announce(line: str) -> None:
    """Write a line for whoever started this program; somebody who closed its stdout does not want to know."""
    if sys.__stdout__ is None:
        return
    try:
        print(line, flush=True)
    except BrokenPipeError:
        _abandon(sys.stdout)


def _open_streams() -> None:
    """Open what is closed, so that no other file gets its number, and let stdout take any text."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  open to the end
    if sys.stdout is sys.__stdout__:
        sys.stdout = _open_stdout(sys.__stdout__)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  open to the end


def _open_stdout(inherited: io.TextIOWrapper | None) -> io.TextIOWrapper:
    if inherited is None:
        # Only readable, so that it fails as a closed one does.
        closed = _Stdout(os.open(os.devnull, os.O_RDONLY), "wb")
        return io.TextIOWrapper(closed, encoding="utf-8", write_through=True)
    raw = _Stdout(inherited.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        raw if inherited.write_through else io.BufferedWriter(raw),
        encoding=inherited.encoding,
        errors="backslashreplace",
        newline="\n",
        line_buffering=inherited.line_buffering,
        write_through=inherited.write_through,
    )


def _flush_stderr() -> None:
    try:
        sys.stderr.flush()
    except OSError:
        _abandon(sys.stderr)


def _abandon(stream: TextIO) -> None:
    """Throw away what is still buffered: at exit it would fail once more, and change the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
