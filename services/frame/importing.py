"""What ends a program while it is still being imported: Ctrl-C without a word, a missing module with a sentence.

Every program imports this first. Once it runs it handles signals itself.
"""

import sys
from types import TracebackType

from services.frame.startup import refuse

# How llama-cpp-python 0.3.36 begins what it says where the system lacks a library of its own.
_UNLOADABLE = "Failed to load shared library"
_told = sys.excepthook


def _tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if isinstance(error, ModuleNotFoundError):
        refuse(f"there is no module {error.name}: pip install 'outrider[engine]', or '.[engine]' in a source tree")
    if isinstance(error, RuntimeError) and str(error).startswith(_UNLOADABLE):
        refuse(str(error))
    # Python ends by SIGINT afterwards, as shells expect.
    if not issubclass(kind, KeyboardInterrupt):
        _told(kind, error, traceback)


sys.excepthook = _tell
