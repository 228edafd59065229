"""API keys: by which a server knows its callers, and which a client shows. Their files are read again when they change.

A file has a key a line, as `name: key`; empty lines and those that begin with # say nothing. The name may be told to
anybody; the key is told to nobody, in no message, log or repr.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import stat
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path

from services.frame.program.files import Changes, read_file
from services.frame.program.startup import StartupError

SCHEME = "Bearer"
# Shorter ones can be guessed.
_LEAST_LENGTH = 16
# What goes into a header after the scheme: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
_KEY = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_logger = logging.getLogger(__name__)

caller_name: ContextVar[str] = ContextVar("caller_name", default="")
"""The name of the key that the running request came with; empty where none was asked for."""


class ApiKeys:
    """The keys that a server takes. It knows their digests only."""

    def __init__(self, path: Path, flag: str = "--api-key-file") -> None:
        """Read the file that the setting `flag` names. Raises StartupError where it is of no use."""
        self._path = path
        self._flag = flag
        self._changes = Changes(path)
        self._names = self._read()
        # Callers that were turned away since the start.
        self.num_refused = 0

    def name_of(self, key: str) -> str | None:
        """Return the name of a key, None for one that is none of ours, and for an empty one.

        How long that takes tells nothing of the keys: digests are compared, all of them, each in full.
        """
        self._read_changed()
        shown = _digest(key)
        found = None
        for digest, name in self._names.items():
            if hmac.compare_digest(digest, shown):
                found = name
        self.num_refused += found is None
        return found

    def _read_changed(self) -> None:
        if not self._changes.have_come():
            return
        try:
            self._names = self._read()
        except StartupError as error:
            _logger.warning("the file of keys has changed and cannot be used, the keys before go on: %s", error)
        else:
            _logger.info("the file of keys has changed, its keys are taken now: %s", ", ".join(self._names.values()))

    def _read(self) -> dict[bytes, str]:
        """Return names by digests. Raises StartupError."""
        names: dict[bytes, str] = {}
        for number, line in _lines(self._path, self._flag):
            where = f"{self._flag} {self._path}, line {number}"
            name, colon, key = (part.strip() for part in line.partition(":"))
            if not (colon and _NAME.fullmatch(name)):
                raise StartupError(f"{where} is no `name: key`; a name has letters, digits, dots, dashes, at most 64")
            check_key(key, where)
            if name in names.values():
                raise StartupError(f"{where} has the name {name} a second time")
            if _digest(key) in names:
                raise StartupError(f"{where} has the key of {names[_digest(key)]} a second time")
            names[_digest(key)] = name
        if not names:
            raise StartupError(f"{self._flag} {self._path} holds no key: write `name: key` into it, one a line")
        _warn_of_readers(self._path, self._flag)
        return names


class ClientKey:
    """The key that a client shows, from a file with one line: `name: key`, or the key alone."""

    def __init__(self, path: Path, flag: str = "--peer-api-key-file") -> None:
        """Read the file that the setting `flag` names. Raises StartupError where it is of no use."""
        self._path = path
        self._flag = flag
        self._changes = Changes(path)
        self._key = self._read()

    def __call__(self) -> str:
        """Return the key, as the file has it now."""
        if self._changes.have_come():
            try:
                self._key = self._read()
            except StartupError as error:
                _logger.warning("the key has changed and cannot be used, the one before goes on: %s", error)
        return self._key

    def _read(self) -> str:
        lines = list(_lines(self._path, self._flag))
        if len(lines) != 1:
            raise StartupError(f"{self._flag} {self._path} holds {len(lines)} keys: a client has one, in one line")
        ((number, line),) = lines
        key = line.rpartition(":")[2].strip()
        check_key(key, f"{self._flag} {self._path}, line {number}")
        _warn_of_readers(self._path, self._flag)
        return key


def bearer_key(authorization: str) -> str:
    """Return the key of an authorization header, empty where it has none."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == SCHEME.lower() else ""


def _lines(path: Path, flag: str) -> list[tuple[int, str]]:
    """Return the lines that say something, with their numbers. Raises StartupError."""
    try:
        text = read_file(path, flag).decode()
    except UnicodeDecodeError as error:
        raise StartupError(f"{flag} {path} is not valid UTF-8") from error
    lines = enumerate(map(str.strip, text.splitlines()), 1)
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def check_key(key: str, where: str) -> None:
    """Raise StartupError for a key that cannot be sent or could be guessed. The sentence does not repeat it."""
    if not _KEY.fullmatch(key):
        raise StartupError(f"{where} has no key that a header takes: letters, digits and -._~+/ without spaces")
    if len(key) < _LEAST_LENGTH:
        raise StartupError(f"{where} has a key of {len(key)} characters: it needs at least {_LEAST_LENGTH}")


def _warn_of_readers(path: Path, flag: str) -> None:
    with suppress(OSError):  # it was read a moment ago, and may be gone by now
        if path.stat().st_mode & stat.S_IROTH:
            _logger.warning("%s %s can be read by every user of this machine: chmod o-r %s", flag, path, path)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
