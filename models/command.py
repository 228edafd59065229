"""What the command lines of this package share: one sentence for an error, and nothing left behind when interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from services.frame.program.output import guarded_output, say
from services.frame.program.startup import StartupError, refuse

_SIGNAL_BASE = 128  # what shells add to a signal's number


# The command cannot do what was asked: told as any program tells why it does not start.
CommandError = StartupError


def run_command(program: str, command: Callable[[], None]) -> NoReturn:
    """Runs `command` and ends the process: 0, or 2 with one sentence on stderr, or 128 + the signal that came.

    SIGTERM unwinds the stack as SIGINT does, so that temporary files are removed.
    """

    def terminate(number: int, _frame: FrameType | None) -> NoReturn:
        say(program, "terminated, nothing was written")
        sys.exit(_SIGNAL_BASE + number)

    signal.signal(signal.SIGTERM, terminate)
    try:
        with guarded_output(program):
            _run(program, command)
    except CommandError as error:
        refuse(error, program)
    sys.exit(0)


def _run(program: str, command: Callable[[], None]) -> None:
    try:
        command()
    except KeyboardInterrupt:
        say(program, "interrupted, nothing was written")
        sys.exit(_SIGNAL_BASE + signal.SIGINT)


def natural(text: str) -> int:
    """An argument that is 0 or more."""
    return _at_least(0, text)


def positive(text: str) -> int:
    """An argument that is 1 or more."""
    return _at_least(1, text)


def _at_least(smallest: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number: {text}") from None
    if number < smallest:
        raise argparse.ArgumentTypeError(f"must be at least {smallest}: {text}")
    return number
