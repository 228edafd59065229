"""A small application whose methods take and give bytes, so that these tests need no protocol."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import pytest

from services.frame.program.settings import ServerSettings
from services.frame.server import FrameServer

SERVICE = "test.Echo"


async def echo(request: bytes, context: Any) -> bytes:
    return request


class EchoApplication:
    """Serves `handlers` as service test.Echo and remembers what happened to it."""

    service_names = (SERVICE,)

    def __init__(self, handlers: Mapping[str, Any] | None = None, loading: Awaitable[object] | None = None) -> None:
        self.handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)} if handlers is None else handlers
        self.loading = loading
        self.events: list[str] = []

    def _add(self, servicer: object, server: grpc.aio.Server) -> None:
        server.add_registered_method_handlers(SERVICE, self.handlers)

    async def start(self, server: FrameServer) -> None:
        self.events.append("starting")
        if self.loading is not None:
            await self.loading
        server.register(self._add, self)
        self.events.append("started")

    async def stop(self) -> None:
        self.events.append("stopped")


@pytest.fixture
def application_class() -> type[EchoApplication]:
    return EchoApplication


Serve = Callable[..., Awaitable[FrameServer]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start servers on free ports with the given handlers or application, and stop them after the test."""
    servers: list[FrameServer] = []

    async def start(application: EchoApplication | Mapping[str, Any] | None = None, **settings: Any) -> FrameServer:
        if not isinstance(application, EchoApplication):
            application = EchoApplication(application)
        server = FrameServer(ServerSettings(**settings), application)
        servers.append(server)
        await server.start()
        return server

    yield start
    await asyncio.gather(*(server.stop(0) for server in servers))


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[FrameServer], grpc.aio.Channel]]:
    """Open plain channels to servers, and close them after the test."""
    channels: list[grpc.aio.Channel] = []

    def open_to(server: FrameServer) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(server.address)
        channels.append(channel)
        return channel

    yield open_to
    for channel in channels:
        await channel.close()
