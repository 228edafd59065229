"""Certificates and keys from PEM files, checked before gRPC sees them.

gRPC tells of an unusable certificate in several lines on stderr and without the file's name.
"""

from __future__ import annotations

import ssl
import stat
from pathlib import Path

from services.frame.startup import StartupError


def read_key_pair(cert: Path, key: Path, flags: tuple[str, str]) -> tuple[bytes, bytes]:
    """Return the contents of `key` and `cert`, in gRPC's order.

    `flags` are the settings that named certificate and key. Raises StartupError for a file that cannot be read, is no
    PEM, needs a pass phrase, or does not belong to the other.
    """
    contents = (_read(key, flags[1]), _read(cert, flags[0]))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_pass_phrase)
    except (ssl.SSLError, ValueError) as error:
        raise StartupError(f"{flags[0]} {cert} and {flags[1]} {key} are no usable pair: {_reason(error)}") from error
    return contents


def read_authority(path: Path, flag: str) -> bytes:
    """Return the contents of a file of certificates that others are checked with.

    `flag` is the setting that named it. Raises StartupError for a file that cannot be read or holds no certificate.
    """
    content = _read(path, flag)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise StartupError(f"{flag} {path} holds no certificate: {_reason(error)}") from error
    return content


def _no_pass_phrase() -> bytes:
    """Answer OpenSSL, which would ask the terminal otherwise."""
    raise ValueError("the key needs a pass phrase, which is not supported")


def _read(path: Path, flag: str) -> bytes:
    try:
        # Whoever opens a pipe waits until somebody writes into it, and OpenSSL reads the file once more.
        if not stat.S_ISREG(path.stat().st_mode):
            raise StartupError(f"{flag} {path} cannot be read: it is not a file")
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"{flag} {path} cannot be read: {error.strerror or error}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
