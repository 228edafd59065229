"""Processes that decode on the same cores take turns.

Threads of a decode meet after every operation of its graph. Where two decodes share cores, each of these meetings waits
for a thread that does not run just then: with two decodes of two threads on two cores, one of 5 ms was seen to take
700 ms and one of 110 ms beside it 1,400. So a process holds a lock on a file while it decodes. Nobody waits for ever:
the file says until when its holder is worth waiting for, as it may have been stopped.
"""

import fcntl
import hashlib
import logging
import os
import stat
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)

# A holder is worth waiting for so many times as long as its decode usually takes, and a little; or so long if unknown.
_USUAL_TIMES, _LEAST_S, _UNKNOWN_S = 3.0, 0.05, 1.0
_POLL_S = 0.0003
# A time in the past is believed when it is read again: a new holder writes its own in the moment after it has the lock.
_NUM_READS = 2
_UNTIL = struct.Struct("d")


class Turns:
    """The lock of one set of cores. Used by one thread."""

    def __init__(self, path: Path | None = None, sleep: Callable[[float], object] = time.sleep) -> None:
        """Lock the file at `path`, made where it is missing; None never waits. Raises OSError."""
        self._sleep = sleep
        self._is_mine = False
        self._file: int | None = None
        if path is not None:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def begin(self, usual_s: float) -> bool:
        """Wait until it is this process's turn, or the other one holds on for too long; return whether that took time.

        A turn lasts until `end`; begun again before that, it goes on. It usually takes `usual_s`, 0 where unknown.
        """
        if self._file is None:
            return False
        num_waits = num_reads = 0
        while not (self._is_mine or self._try_lock()):
            num_reads = num_reads + 1 if self._until_s() < time.monotonic() else 0
            if num_reads == _NUM_READS:
                return num_waits > 0
            self._sleep(_POLL_S)
            num_waits += 1
        until_s = time.monotonic() + (_USUAL_TIMES * usual_s + _LEAST_S if usual_s else _UNKNOWN_S)
        os.pwrite(self._file, _UNTIL.pack(until_s), 0)
        return num_waits > 0

    def end(self) -> None:
        """End the turn, if it is this process's."""
        if self._is_mine and self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._is_mine = False

    def close(self) -> None:
        """End the turn and close the file; nobody is waited for any more."""
        self.end()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _try_lock(self) -> bool:
        assert self._file is not None
        with suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._is_mine = True
        return self._is_mine

    def _until_s(self) -> float:
        assert self._file is not None
        until_s: float
        held = os.pread(self._file, _UNTIL.size, 0)
        (until_s,) = _UNTIL.unpack(held) if len(held) == _UNTIL.size else (0.0,)
        return until_s


def turns_of(setting: str, num_threads: int) -> Turns:
    """Return the turns of a process that decodes with so many threads on the cores that it may use.

    `setting` is a path, `off`, or `auto`: a file for this set of cores and this user. Half the cores or less are taken
    without turns by `auto`, as another process may have the others. Where the file cannot be made, nobody is waited
    for, and the log says so.
    """
    cores = sorted(os.sched_getaffinity(0))
    if setting == "off" or (setting == "auto" and 2 * num_threads <= len(cores)):
        return Turns()
    try:
        return Turns(_file_for(cores) if setting == "auto" else Path(setting))
    except OSError as error:
        _log.warning(
            "no turns with other processes on the same cores, as the lock cannot be opened (%s): "
            "set --core-lock to a file that all of them can write, or to off where there are none",
            error,
        )
        return Turns()


def _file_for(cores: list[int]) -> Path:
    folder = Path(tempfile.gettempdir()) / f"outrider-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    name = hashlib.blake2s(repr(cores).encode(), digest_size=6).hexdigest()
    return folder / f"cores-{name}.lock"
