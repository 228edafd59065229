"""How a program refuses to start: one sentence on stderr, exit code 2, no traceback."""

from __future__ import annotations

from typing import NoReturn

from services.frame.output import say

CODE_REFUSED = 2


class StartupError(Exception):
    """A reason not to start that the user can do something about. The text is one sentence that says what to change."""


def refuse(problem: str | StartupError, program: str = "outrider") -> NoReturn:
    """End the process with `program: problem` on stderr and exit code 2."""
    say(program, str(problem))
    raise SystemExit(CODE_REFUSED)
