"""How a program refuses to start: one sentence on stderr, exit code 2, no traceback."""

from __future__ import annotations

import argparse
from typing import NoReturn

from services.frame.program.output import say

CODE_REFUSED = 2
# Python's words where the system gives no more of them.
_NO_THREAD = "can't start new thread"


class StartupError(Exception):
    """A reason not to start, or not to go on, that the user can mend. The text is one sentence on what to change."""


class Parser(argparse.ArgumentParser):
    """A parser that answers a bad command line with a StartupError, instead of a page of usage and an exit."""

    def error(self, message: str) -> NoReturn:
        raise StartupError(f"{message}; --help lists the flags")


def refuse(problem: str | StartupError, program: str = "outrider") -> NoReturn:
    """End the process with `program: problem` on stderr and exit code 2."""
    say(program, str(problem))
    raise SystemExit(CODE_REFUSED)


def exhausted(error: MemoryError | RuntimeError) -> str | None:
    """Return a sentence where the system gives no more memory or threads, None for any other error."""
    if not isinstance(error, MemoryError) and str(error) != _NO_THREAD:
        return None
    reason = str(error) or "out of memory"
    return f"the system gives no more memory ({reason}): raise ulimit -v and -u, or the container's limits"
