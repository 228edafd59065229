"""What the command lines of this package share: one sentence for an error, and nothing left behind when interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

BAD_INPUT = 2
_SIGNAL_BASE = 128  # what shells add to a signal's number


class CommandError(Exception):
    """The command cannot do what was asked; the message is one sentence for a person."""


class Parser(argparse.ArgumentParser):
    """A parser that answers a bad command line with one sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see --help)")


def run_command(program: str, command: Callable[[], None]) -> NoReturn:
    """Runs `command` and ends the process: 0, or 2 with one sentence on stderr, or 128 + the signal that came.

    SIGTERM unwinds the stack as SIGINT does, so that temporary files are removed.
    """

    def terminate(number: int, _frame: FrameType | None) -> NoReturn:
        print(f"{program}: terminated, nothing was written", file=sys.stderr)
        sys.exit(_SIGNAL_BASE + number)

    signal.signal(signal.SIGTERM, terminate)
    try:
        command()
    except CommandError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print(f"{program}: interrupted, nothing was written", file=sys.stderr)
        sys.exit(_SIGNAL_BASE + signal.SIGINT)
    sys.exit(0)
