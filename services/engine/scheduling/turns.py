"""Processes that decode on the same cores take turns.

Threads of a decode meet after every operation of its graph. Where two decodes share cores, each of these meetings waits
for a thread that does not run just then: with two decodes of two threads on two cores, one of 5 ms was seen to take
700 ms and one of 110 ms beside it 1,400. So a process holds a lock on a file while it decodes. Nobody waits for ever:
the file says until when its holder is worth waiting for, as it may have been stopped.

A lock by itself goes to whoever is quickest, which is the process that has just let it go: a target that reads prompts
was seen to keep a draft from its turn for 6 s. So who waits for its turn holds a second lock, and who wants another
turn waits for that one first.
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
# Who is next takes a free lock when it is given a core: after so many reads, of 20 ms, it may have been stopped.
_NUM_READS_OF_NEXT = 67
_UNTIL = struct.Struct("d")


class _Lock:
    """A lock on a file, which is made where it is missing. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.is_mine = False

    def take(self) -> bool:
        """Return whether it is this process's now."""
        with suppress(BlockingIOError):
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.is_mine = True
        return self.is_mine

    def give_back(self) -> None:
        """Let others take it, if it is this process's."""
        if self.is_mine:
            fcntl.flock(self.file, fcntl.LOCK_UN)
            self.is_mine = False


class Turns:
    """The lock of one set of cores. Used by one thread."""

    def __init__(self, path: Path | None = None, sleep: Callable[[float], object] = time.sleep) -> None:
        """Lock the file at `path`, and another one beside it; None never waits. Raises OSError."""
        self._sleep = sleep
        self._turn = self._next = None
        # Whether the one that was next did not take its turn, when it was last waited for.
        self._is_next_stuck = False
        if path is not None:
            self._turn, self._next = _Lock(path), _Lock(path.with_name(f"{path.name}.next"))

    @property
    def are_taken(self) -> bool:
        """Whether there are any: else nobody is waited for."""
        return self._turn is not None

    def begin(self, usual_s: float) -> bool:
        """Wait until it is this process's turn, or the other one holds on for too long; return whether that took time.

        A turn lasts until `end`; begun again before that, it goes on. It usually takes `usual_s`, 0 where unknown.
        """
        if self._turn is None or self._next is None:
            return False
        num_waits = 0
        if not self._turn.is_mine:
            num_waits = self._wait(self._next, 1 if self._is_next_stuck else _NUM_READS_OF_NEXT)
            self._is_next_stuck = not self._next.is_mine
            num_waits += self._wait(self._turn, _NUM_READS)
            self._next.give_back()
        if self._turn.is_mine:
            self._say(time.monotonic() + (_USUAL_TIMES * usual_s + _LEAST_S if usual_s else _UNKNOWN_S))
        return num_waits > 0

    def end(self) -> None:
        """End the turn, if it is this process's."""
        if self._turn is not None and self._turn.is_mine:
            self._say(0.0)
            self._turn.give_back()

    def close(self) -> None:
        """End the turn and close the files; nobody is waited for any more."""
        self.end()
        for lock in (self._turn, self._next):
            if lock is not None:
                os.close(lock.file)
        self._turn = self._next = None

    def _wait(self, lock: _Lock, num_reads: int) -> int:
        """Wait for a lock until the turn under way has taken too long, in so many reads; return how often."""
        num_waits = num_late = 0
        while not lock.take():
            num_late = num_late + 1 if self._until_s() < time.monotonic() else 0
            if num_late == num_reads:
                break
            self._sleep(_POLL_S)
            num_waits += 1
        return num_waits

    def _say(self, until_s: float) -> None:
        assert self._turn is not None
        os.pwrite(self._turn.file, _UNTIL.pack(until_s), 0)

    def _until_s(self) -> float:
        assert self._turn is not None
        until_s: float
        held = os.pread(self._turn.file, _UNTIL.size, 0)
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
