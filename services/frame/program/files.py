"""Files that a setting names: read with one sentence where that fails, and watched for changes."""

from __future__ import annotations

import stat
from pathlib import Path

from services.frame.program.startup import StartupError


def read_file(path: Path, name: str) -> bytes:
    """Return the contents of a file that the setting `name` names. Raises StartupError where it cannot be read."""
    try:
        # Whoever opens a pipe waits until somebody writes into it, and some files are read twice.
        if not stat.S_ISREG(path.stat().st_mode):
            raise StartupError(f"{name} {path} cannot be read: it is not a file")
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"{name} {path} cannot be read: {error.strerror or error}") from error


class Changes:
    """Tells of files whether one has changed since that was last asked, or since this was made."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._known = [_stamp(path) for path in paths]

    def have_come(self) -> bool:
        """Whether a file has changed, been replaced, come or gone. A microsecond or two a file."""
        known, self._known = self._known, [_stamp(path) for path in self._paths]
        return self._known != known


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return something that differs once a file has changed."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
