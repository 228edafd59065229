"""The server that every service runs in: health, reflection, TLS, limits, and a graceful end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, Protocol, Self

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from services.frame.program.address import is_unix_address
from services.frame.program.api_keys import ApiKeys
from services.frame.program.settings import ServerSettings
from services.frame.program.startup import StartupError
from services.frame.rpc.handlers import HandlerRegistry
from services.frame.rpc.health import HealthService
from services.frame.rpc.reflection import add_reflection
from services.frame.rpc.tls import ServerCertificates
from services.frame.rpc.unix_socket import check_socket_free
from services.frame.telemetry import Telemetry, observed

# A client may ping every ten seconds, even between calls. One that has vanished is noticed within 25 seconds: see
# `channel.KEEPALIVE_OPTIONS`, whose numbers must fit these.
KEEPALIVE_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    ("grpc.http2.max_pings_without_data", 0),
)

# What streams of health and reflection get to end by themselves; a client may leave one of reflection open.
GOODBYE_S = 1.0

_logger = logging.getLogger(__name__)


class Application(Protocol):
    """What a service brings to its server."""

    @property
    def service_names(self) -> Sequence[str]:
        """Full names, as in "outrider.v1.TargetService", for health and reflection."""

    async def start(self, server: FrameServer) -> None:
        """Load what is needed, in a thread where that takes long, and register the servicers.

        Health is NOT_SERVING meanwhile and SERVING afterwards. Raises StartupError for what the user can mend.
        """

    async def stop(self) -> None:
        """Let go of everything. Called once calls have ended, and after a start that failed or was interrupted."""


class FrameServer:
    """A gRPC server around one application.

    A test writes `async with FrameServer(settings, application) as server`: port 0 in the settings is a free one, which
    `server.port` names.
    """

    def __init__(self, settings: ServerSettings, application: Application, telemetry: Telemetry | None = None) -> None:
        self.settings = settings
        self.telemetry = telemetry or Telemetry.off()
        # For the spans of cycles and messages.
        self.cycle_telemetry = self.telemetry if settings.trace_detail == "cycle" else self.telemetry.of_requests()
        # Set when stopping begins: handlers of long streams end them between two messages.
        self.draining = asyncio.Event()
        # Set when the process is to end, whether asked to from outside or by `fail`.
        self.ended = asyncio.Event()
        self.failure: str | None = None
        self.port = 0
        # Those that callers must show one of; read when it begins to listen.
        self.keys: ApiKeys | None = None
        self._application = application
        self._registry = HandlerRegistry()
        # Health and reflection, which answer from the first moment to the last.
        self._stock = HandlerRegistry()
        self._stock.is_open = True
        self._health = HealthService()
        self._server: grpc.aio.Server | None = None
        self._has_application_begun = False

    @property
    def address(self) -> str:
        """HOST:PORT as bound, or unix:/path."""
        return _join_address(self.settings.host, self.port)

    def register(self, add_servicer: Callable[[Any, grpc.aio.Server], None], servicer: object) -> None:
        """Add a servicer, as in `register(add_TargetServiceServicer_to_server, servicer)`."""
        add_servicer(servicer, self._registry.as_server())

    def announce_wait(self, what: str) -> None:
        """Say what callers wait for until the application has started, as in "loading a.gguf (30 MiB)"."""
        self._registry.wait = what

    @property
    def wait(self) -> str:
        """What was announced last; empty where nothing was."""
        return self._registry.wait

    def counting(self) -> AbstractContextManager[None]:
        """Run the block as a call under way, which a graceful end waits for, though it came by another way than gRPC.

        Raises ServiceError, NOT_READY, while the application starts or the server stops.
        """
        return self._registry.counting()

    def set_serving(self, is_serving: bool) -> None:
        """Set the health of the application's services, and of the server as a whole."""
        for name in ("", *self._application.service_names):
            self._health.set(name, is_serving)

    def fail(self, sentence: str) -> None:
        """Ask for the end of a process that cannot go on; `sentence` becomes its last line, the exit code is 1.

        To be called on the event loop. Only the first sentence counts.
        """
        if self.failure is None:
            self.failure = sentence
            self.ended.set()

    async def listen(self) -> int:
        """Bind and answer health and reflection; methods of the application answer NOT_READY. Returns the port.

        Raises StartupError for an address that cannot be bound and for unusable certificates and keys.
        """
        settings = self.settings
        if settings.api_key_file is not None:
            # Health and reflection tell nothing of what is served, and are asked by who knows no key.
            keys = self.keys = self._registry.keys = ApiKeys(settings.api_key_file)
            self.telemetry.meter.create_observable_counter(
                "outrider.refused_keys", [observed(lambda: keys.num_refused)], "{call}", "calls without a key"
            )
        server = grpc.aio.server(
            handlers=[self._stock, self._registry],
            options=[
                # Without this two servers share a busy port and each gets half of the calls.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                *KEEPALIVE_OPTIONS,
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._stock.as_server())
        add_reflection([*self._application.service_names, health.SERVICE_NAME], self._stock)
        credentials = _server_credentials(settings)
        self.port = _bind(server, settings.host, settings.port, credentials)
        self.set_serving(False)
        await server.start()
        self._server = server
        return self.port

    async def start(self) -> None:
        """Listen where that has not been done, start the application, and set health to SERVING."""
        if self._server is None:
            await self.listen()
        self._has_application_begun = True
        await self._application.start(self)
        self._registry.is_open = True
        self.set_serving(True)

    async def stop(self, drain_timeout_s: float | None = None) -> None:
        """Refuse new calls, give those under way up to `drain_timeout_s` (None: the setting), stop the application.

        New calls are answered UNAVAILABLE with reason NOT_READY: gRPC's own shutdown would cancel those that come in
        before its goodbye has reached the client. Watches of health hear NOT_SERVING and end.
        """
        timeout_s = self.settings.drain_timeout_s if drain_timeout_s is None else drain_timeout_s
        self.draining.set()
        self._registry.is_draining = True
        self._health.end()
        if self._server is not None:
            server, self._server = self._server, None
            with suppress(TimeoutError):
                await asyncio.wait_for(self._registry.wait_idle(), timeout_s)
            if self._registry.num_under_way > 0:
                _logger.warning("%d calls cancelled after %g s", self._registry.num_under_way, timeout_s)
            # What is left is cancelled, but answers of health and reflection on their way get there.
            await server.stop(min(timeout_s, GOODBYE_S) if self._registry.num_under_way == 0 else None)
        if self._has_application_begun:
            self._has_application_begun = False
            await self._application.stop()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop(0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()


def _join_address(host: str, port: int) -> str:
    if is_unix_address(host):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    address = _join_address(host, port)
    check_free(host, port)
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise _cannot_listen(address, error) from error


def check_free(host: str, port: int, flags: str = "--host or --port") -> None:
    """Raise StartupError where `host` and `port`, or the Unix socket that `host` names, cannot be bound.

    `flags` are what the sentence says to change. gRPC would find out as well, but gives no reason and writes several
    lines of its own to stderr.
    """
    address = _join_address(host, port)
    if is_unix_address(host):
        try:
            check_socket_free(host)
        except OSError as error:
            raise _cannot_listen(address, error, flags) from error
        return
    if _is_short(host):
        raise _cannot_listen(address, ValueError("write the address in full, as in 0.0.0.0"), flags)
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(address, error, flags) from error
    problems: list[OSError] = []
    for family, kind, protocol, _, place in places:
        try:
            with socket.socket(family, kind, protocol) as probe:
                # As gRPC does: connections of an earlier process that linger on the port are no obstacle.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as error:
            problems.append(error)
    # "localhost" often names an IPv6 address that the machine does not have; gRPC takes the others.
    for problem in problems:
        if len(problems) == len(places) or problem.errno == errno.EADDRINUSE:
            raise _cannot_listen(address, problem, flags) from problem


def _is_short(host: str) -> bool:
    """Whether the system reads a host as an address and gRPC as a name, as with `*`, `0` and `127.1`."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return False
    with suppress(OSError, ValueError):
        return bool(socket.getaddrinfo(host, 0, flags=socket.AI_NUMERICHOST))
    return False


def _cannot_listen(address: str, error: Exception, flags: str = "--host or --port") -> StartupError:
    reason = getattr(error, "strerror", None) or str(error)
    choice = "--host" if is_unix_address(address) else flags
    return StartupError(f"cannot listen on {address} ({reason}): choose another {choice}")


def _server_credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return ServerCertificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca).credentials()
