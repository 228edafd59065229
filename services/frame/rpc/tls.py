"""Certificates and keys from PEM files, checked before gRPC sees them, and read again when they change.

gRPC complains of an unusable certificate in several lines on stderr, and does not name the file.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

import grpc

from services.frame.program.files import Changes, read_file
from services.frame.program.startup import StartupError

_logger = logging.getLogger(__name__)


class ServerCertificates:
    """A server's certificate, key and, where clients are to show theirs, authority: read again when a file changes."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._changes = Changes(*(path for path in (cert, key, client_ca) if path is not None))

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files. Raises StartupError where the files are unusable now."""
        return grpc.dynamic_ssl_server_credentials(
            self._read(),
            self._read_changed,  # type: ignore[arg-type]  # the stubs do not know that it may return None
            require_client_authentication=self._client_ca is not None,
        )

    def context(self) -> ssl.SSLContext:
        """Return the same for servers that are not gRPC's. Raises StartupError where the files are unusable now."""
        self._read()
        first = newest = self._load()

        def follow(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            nonlocal newest
            if self._read_changed() is not None:
                newest = self._load()
            connection.context = newest

        # Called in every handshake, whether the client names a server or not.
        first.sni_callback = follow
        return first

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._cert, self._key)
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _read(self) -> grpc.ServerCertificateConfiguration:
        pair = read_key_pair(self._cert, self._key, ("--tls-cert", "--tls-key"))
        client_ca = None if self._client_ca is None else read_authority(self._client_ca, "--tls-client-ca")
        return grpc.ssl_server_certificate_configuration([pair], client_ca)

    def _read_changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what changed files hold, None where nothing changed. gRPC calls this with every new connection."""
        if not self._changes.have_come():
            return None
        try:
            configuration = self._read()
        except StartupError as error:
            _logger.warning("files of TLS have changed and cannot be used, the ones before them go on: %s", error)
            return None
        _logger.info("files of TLS have changed, connections from now on use them")
        return configuration


def read_key_pair(cert: Path, key: Path, flags: tuple[str, str]) -> tuple[bytes, bytes]:
    """Return the contents of `key` and `cert`, in gRPC's order.

    `flags` are the settings that named certificate and key. Raises StartupError for a file that cannot be read, is no
    PEM, needs a pass phrase, or does not belong to the other.
    """
    contents = (read_file(key, flags[1]), read_file(cert, flags[0]))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=_no_pass_phrase)
    except (ssl.SSLError, ValueError) as error:
        raise StartupError(f"{flags[0]} {cert} and {flags[1]} {key} are no usable pair: {_reason(error)}") from error
    return contents


def read_authority(path: Path, flag: str) -> bytes:
    """Return the contents of a file of certificates that others are checked with.

    `flag` is the setting that named it. Raises StartupError for a file that cannot be read or holds no certificate.
    """
    content = read_file(path, flag)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise StartupError(f"{flag} {path} holds no certificate: {_reason(error)}") from error
    return content


def _no_pass_phrase() -> bytes:
    """Answer OpenSSL, which would ask the terminal otherwise."""
    raise ValueError("the key needs a pass phrase, which is not supported")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
