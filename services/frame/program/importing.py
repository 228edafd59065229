"""What ends a program while it is still being imported: signals without a word, a missing module with a sentence.

Every program imports this first. Once it runs it handles signals itself.
"""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import NoReturn

from services.frame.program.startup import refuse

# How llama-cpp-python 0.3.36 begins what it says where the system lacks a library of its own.
_UNLOADABLE = "Failed to load shared library"
_told = sys.excepthook


def end_at_once(number: int, _: FrameType | None) -> NoReturn:
    """Do what a signal does by default, for process 1 of a container, which the kernel spares it."""
    os._exit(128 + number)


def _tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(error, ModuleNotFoundError):
        refuse(f"there is no module {error.name}: pip install 'outrider[engine]', or '.[engine]' in a source tree")
    if isinstance(error, RuntimeError) and str(error).startswith(_UNLOADABLE):
        refuse(str(error))
    # Python ends by SIGINT afterwards, as shells expect.
    if not issubclass(kind, KeyboardInterrupt):
        _told(kind, error, traceback)


sys.excepthook = _tell
if os.getpid() == 1:
    for _number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(_number) is signal.SIG_DFL:
            signal.signal(_number, end_at_once)
