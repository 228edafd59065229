"""What a program found out once and need not find out again: a file in the user's cache folder.

No program needs the file. Where it cannot be read or written, one warning says so and the work goes on without it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Generic, TypeVar, cast

from platformdirs import user_cache_path

from services.frame.program.atomic_file import replacing

_logger = logging.getLogger(__name__)
# The lock is held while a small file is read and written: whoever holds it longer was stopped, and is not waited for.
_LOCK_PATIENCE_S = 2.0
_LOCK_PAUSE_S = 0.01

ValueT = TypeVar("ValueT")


class Remembered(Generic[ValueT]):
    """A JSON object in a file that several programs may write to at once. It is read when it is first needed."""

    def __init__(self, name: str, types: Collection[type]) -> None:
        """Use the file `name` of the cache folder. Values in it that are of none of `types` are ignored."""
        self._name = name
        self._types = types
        self._is_in_use = True
        self._has_warned = False

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> ValueT | None:
        """Return what is kept under `key`, None where nothing is."""
        return self._values.get(key)

    def keep(self, key: str, value: ValueT) -> None:
        """Keep `value` under `key`, and leave alone what other programs have kept meanwhile."""
        self._values[key] = value
        if not self._is_in_use:
            return
        try:
            path = self._path()
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(path.with_suffix(".lock")):
                values = json.dumps(self._read(path) | {key: value})
                with replacing(path) as part:
                    part.write_text(values)
        except OSError as error:
            self._go_without(error)

    @cached_property
    def _values(self) -> dict[str, ValueT]:
        try:
            return self._read(self._path())
        except OSError as error:
            self._go_without(error)
            return {}

    def _path(self) -> Path:
        """Return where the file is. Raises OSError where the cache folder is unknown."""
        try:
            folder = user_cache_path("outrider")
        except RuntimeError as error:
            raise OSError("the user has no home") from error
        if not folder.is_absolute():
            raise OSError("the user has no home")
        return folder / self._name

    def _read(self, path: Path) -> dict[str, ValueT]:
        """Return what can be used of the file. Raises OSError where it cannot be read."""
        try:
            with _open(path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return {}
        found: Any = None
        with suppress(ValueError, RecursionError):
            found = json.loads(content)
        entries = found if isinstance(found, dict) else {}
        usable = {key: value for key, value in entries.items() if type(value) in self._types}
        if not isinstance(found, dict) or len(usable) < len(entries):
            self._warn("%s holds what cannot be used: that is found out anew, and replaced", path)
        return usable

    def _go_without(self, error: OSError) -> None:
        self._is_in_use = False
        try:
            place = str(self._path())
        except OSError:
            place = f"~/.cache/outrider/{self._name}"
        self._warn(
            "%s cannot be used (%s), so that the next start finds out anew what this one does: "
            "set XDG_CACHE_HOME to a folder that can be written to",
            place,
            error.strerror or error,
        )

    def _warn(self, sentence: str, *values: object) -> None:
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(sentence, *values)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other programs out for a block. Raises OSError where there are no locks, or this one is not to be had."""
    with _open(path, "ab") as file:
        give_up_s = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > give_up_s:
                    raise TimeoutError(f"{path} is locked") from error
                time.sleep(_LOCK_PAUSE_S)
        yield


def _open(path: Path, mode: str) -> IO[bytes]:
    """Open a file, without waiting where somebody has put a pipe in its place. Raises OSError."""
    return cast(IO[bytes], open(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK, 0o666)))
