"""Where `outrider serve` serves HTTP."""

import socket
from collections.abc import Mapping
from typing import Any

from orchestrator.settings import OrchestratorSettings
from services.frame.program.address import split_host_and_port
from services.frame.program.settings import load_settings
from services.frame.program.startup import StartupError
from services.frame.server import check_free

_HOST, _PORT = "127.0.0.1", 8080


def http_address(given: str | None) -> str:
    """Return HOST:PORT, empty for none: what was given, or port 8080 of loopback, or a free one where that is taken.

    Raises StartupError where an address that was given is none, or cannot be listened on.
    """
    if given is None:
        try:
            check_free(_HOST, _PORT)
        except StartupError:
            return f"{_HOST}:{_free_port(_HOST)}"
        return f"{_HOST}:{_PORT}"
    if not given:
        return ""
    try:
        host, port = split_host_and_port(given)
    except ValueError as error:
        raise StartupError(f"--http is {given!r}: {error}") from error
    check_free(host, port, "--http")
    # A process that is started again has to find its own port.
    return given if port else f"{given.rpartition(':')[0]}:{_free_port(host)}"


def http_line(address: str, given: str | None, values: Mapping[str, Any]) -> str:
    """Return what is said of an address once it is served; `values` are those of the orchestrator's settings."""
    settings = load_settings(OrchestratorSettings, {"host": _HOST, "http": "", **values})
    scheme = "http" if settings.tls_cert is None else "https"
    is_other = given is None and address != f"{_HOST}:{_PORT}"
    return f"HTTP at {scheme}://{address}" + (f", as port {_PORT} is taken" if is_other else "")


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
