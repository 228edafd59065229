"""uvicorn around an application, in this process and on its event loop."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from orchestrator.settings import OrchestratorSettings
from services.frame.program.address import split_host_and_port
from services.frame.rpc.tls import ServerCertificates
from services.frame.server import check_free

# Between two requests of a connection; longer than proxies keep theirs by default, so that they end it and not we.
_KEEP_ALIVE_S = 75
# What answers that were cut off, and connections, get to end by themselves.
_GOODBYE_S = 1
# Requests that are in nobody's hands yet wait here.
_BACKLOG = 2048


class _Protocol(HttpToolsProtocol):
    """One connection, which the application may cut: one that is not read from would never close otherwise."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["abort"] = self.transport.abort


class _Server(uvicorn.Server):
    """Leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves an application at the settings' `http`, over TLS where gRPC is served so."""

    def __init__(self, settings: OrchestratorSettings, app: ASGIApp) -> None:
        self._host, self._port = split_host_and_port(settings.http)
        # It logs requests and defects of an application, both of which are told elsewhere or private.
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GOODBYE_S,
            ssl_context_factory=_tls(settings),
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """As in `http://127.0.0.1:8080`."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._server.config.is_ssl else 'http'}://{host}:{self._port}"

    async def start(self) -> None:
        """Listen. Raises StartupError for an address that cannot be bound, and for unusable certificates."""
        check_free(self._host, self._port, "--http")
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # One that is taken in this very moment is a defect to nobody: the program starts again.
        listening = socket.create_server((self._host, self._port), family=family, backlog=_BACKLOG)
        self._port = listening.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve([listening]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0)
        if self._serving.done():
            self._serving.result()

    async def stop(self) -> None:
        """Cut off what is under way, and close all connections."""
        if self._serving is None:
            return
        serving, self._serving = self._serving, None
        state = self._server.server_state
        if tasks := set(state.tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_GOODBYE_S)
        self._server.should_exit = True
        await serving
        for connection in list(state.connections):
            connection.transport.abort()


def _tls(settings: OrchestratorSettings) -> Callable[..., ssl.SSLContext] | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    certificates = ServerCertificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    return lambda _config, _default: certificates.context()
