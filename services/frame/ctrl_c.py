"""Ctrl-C while a program is still being imported: it ends without a traceback.

Every program imports this first. Once it runs it handles signals itself.
"""

import sys
from types import TracebackType

_told = sys.excepthook


def _tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    # Python ends by SIGINT afterwards, as shells expect.
    if not issubclass(kind, KeyboardInterrupt):
        _told(kind, error, traceback)


sys.excepthook = _tell
