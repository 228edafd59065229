"""Which exporters the environment asks for, by OpenTelemetry's standard, and whether they could work.

A variable without a value is not set, and that of one signal comes before the one for both. Whatever an exporter would
refuse, or silently do without, is refused here with one sentence.

https://opentelemetry.io/docs/specs/otel/protocol/exporter/
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from services.frame.program.startup import StartupError
from services.frame.rpc.tls import read_authority, read_key_pair

GRPC = "grpc"
HTTP = "http/protobuf"
CONSOLE: Literal["console"] = "console"
_NONE = "none"
_EXPORTERS = ("otlp", CONSOLE, _NONE)
_PROTOCOLS = (GRPC, HTTP)
_COMPRESSIONS = {GRPC: ("gzip", _NONE), HTTP: ("gzip", "deflate", _NONE)}
_OF_METRICS = {
    "TEMPORALITY_PREFERENCE": ("cumulative", "delta", "lowmemory"),
    "DEFAULT_HISTOGRAM_AGGREGATION": ("explicit_bucket_histogram", "base2_exponential_bucket_histogram"),
}
# https://github.com/grpc/grpc/blob/master/doc/naming.md
_GRPC_NAMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:")
# Names of headers that HTTP/2 takes, and so both protocols.
_HEADER_NAME = re.compile(r"[0-9a-z_.-]+")


@dataclass(frozen=True)
class OtlpOptions:
    """How a signal is sent over OTLP. Certificates and key are the contents of files in PEM."""

    protocol: str
    compression: str
    certificate: bytes | None
    client_key: bytes | None
    client_certificate: bytes | None


Exporter = OtlpOptions | Literal["console"]


def named_exporters(signal: str) -> list[Exporter]:
    """Return the exporters that the environment asks for, for TRACES or METRICS.

    Raises StartupError for names that are not known, and for what an exporter could not work with.
    """
    variable = f"OTEL_{signal}_EXPORTER"
    names = [name.strip() for name in os.environ.get(variable, "").lower().split(",") if name.strip()]
    if not names and _find(signal, "ENDPOINT"):
        names = ["otlp"]
    for name in names:
        if name not in _EXPORTERS:
            raise StartupError(f"{variable} names {name!r}: only {', '.join(_EXPORTERS)} are supported")
    return [CONSOLE if name == CONSOLE else _otlp_options(signal) for name in names if name != _NONE]


def _otlp_options(signal: str) -> OtlpOptions:
    protocol = _choose(signal, "PROTOCOL", _PROTOCOLS, GRPC)
    compression = _choose(signal, "COMPRESSION", _COMPRESSIONS[protocol], _NONE)
    if signal == "METRICS":
        for name, choices in _OF_METRICS.items():
            _choose(signal, name, choices, choices[0])
    _check_endpoint(signal, protocol)
    _check_timeout(signal)
    _check_headers(signal)
    authority = _find(signal, "CERTIFICATE")
    certificate = read_authority(Path(authority[1]), authority[0]) if authority else None
    return OtlpOptions(protocol, compression, certificate, *_client_pair(signal))


def _find(signal: str, name: str) -> tuple[str, str] | None:
    """Return the variable that counts, and its value; None where neither is set."""
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_{name}", f"OTEL_EXPORTER_OTLP_{name}")
    return next(((variable, os.environ[variable]) for variable in variables if os.environ.get(variable)), None)


def _choose(signal: str, name: str, choices: tuple[str, ...], default: str) -> str:
    if (found := _find(signal, name)) is None:
        return default
    variable, value = found
    choice = value.strip().lower()
    if choice not in choices:
        raise StartupError(f"{variable} is {value!r}: only {', '.join(choices)} are supported")
    return choice


def _check_endpoint(signal: str, protocol: str) -> None:
    if (found := _find(signal, "ENDPOINT")) is None:
        return
    variable, url = found
    if protocol == GRPC and url.startswith(_GRPC_NAMES):
        return
    try:
        # Over gRPC a name without a scheme will do.
        parts = urlsplit(url if "://" in url or protocol == HTTP else f"https://{url}")
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url:
        example = "http://HOST:4317" if protocol == GRPC else "http://HOST:4318"
        raise StartupError(f"{variable} is {url!r}: give a URL, as in {example}")


def _check_timeout(signal: str) -> None:
    if (found := _find(signal, "TIMEOUT")) is None:
        return
    variable, value = found
    try:
        is_time = 0 < float(value) < float("inf")
    except ValueError:
        is_time = False
    if not is_time:
        raise StartupError(f"{variable} is {value!r}: give it a number of seconds")


def _check_headers(signal: str) -> None:
    """Raise StartupError for headers that cannot be sent. It does not repeat their values, which may be secrets."""
    if (found := _find(signal, "HEADERS")) is None:
        return
    variable, value = found
    for pair in value.split(","):
        name, equals, text = (unquote(part).strip() for part in pair.partition("="))
        is_sent = text.isascii() and text.isprintable() and not name.endswith("-bin")
        if pair.strip() and not (equals and _HEADER_NAME.fullmatch(name.lower()) and is_sent):
            raise StartupError(f"{variable} must be a list of NAME=VALUE with commas, in printable ASCII")


def _client_pair(signal: str) -> tuple[bytes | None, bytes | None]:
    """Return the key and the certificate that are shown to a collector. Raises StartupError."""
    cert, key = _find(signal, "CLIENT_CERTIFICATE"), _find(signal, "CLIENT_KEY")
    if cert is None and key is None:
        return None, None
    if cert is None or key is None:
        raise StartupError(
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY, or those of one signal, are "
            "needed together"
        )
    return read_key_pair(Path(cert[1]), Path(key[1]), (cert[0], key[0]))
