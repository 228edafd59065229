"""How a program ends that is still being imported: by a signal without a word, for a missing module with a sentence.

Every program imports this first. Once it runs, it handles signals itself.
"""

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import NoReturn

from services.frame.program.startup import refuse

# How llama-cpp-python 0.3.36 begins its message where the system lacks a library that it needs.
_UNLOADABLE = "Failed to load shared library"
_usual_hook = sys.excepthook


def end_at_once(number: int, _: FrameType | None) -> NoReturn:
    """End as signals end a process by default. The kernel does not do that to process 1 of a container."""
    os._exit(128 + number)


def _tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(error, ModuleNotFoundError):
        refuse(f"there is no module {error.name}: pip install 'outrider[engine]', or '.[engine]' in a source tree")
    if isinstance(error, RuntimeError) and str(error).startswith(_UNLOADABLE):
        refuse(str(error))
    # Python ends by SIGINT afterwards, as shells expect.
    if not issubclass(kind, KeyboardInterrupt):
        _usual_hook(kind, error, traceback)


sys.excepthook = _tell
if os.getpid() == 1:
    for _number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(_number) is signal.SIG_DFL:
            signal.signal(_number, end_at_once)
