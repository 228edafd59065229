"""Signals while a program is still being imported: they end it, without a traceback.

Every program imports this first. Once it runs it handles signals itself.
"""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import NoReturn

_told = sys.excepthook


def end_at_once(number: int, _: FrameType | None) -> NoReturn:
    """Do what a signal does by default, for process 1 of a container, which the kernel spares it."""
    os._exit(128 + number)


def _tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    # Python ends by SIGINT afterwards, as shells expect.
    if not issubclass(kind, KeyboardInterrupt):
        _told(kind, error, traceback)


sys.excepthook = _tell
if os.getpid() == 1:
    for _number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(_number) is signal.SIG_DFL:
            signal.signal(_number, end_at_once)
