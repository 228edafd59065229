"""A middlebox in front of a server: it can drop connections, with a word or without."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

# A second of the keepalive that our channels and servers have, in tests: a quarter of a minute is long to wait.
SCALE = 40


def scaled(options: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Channel or server options with every time in them shortened alike."""
    return [(name, value // SCALE if name.endswith("_ms") else value) for name, value in options]


class Relay:
    """Passes bytes between its own port and a server's."""

    def __init__(self, address: str) -> None:
        self.address = ""
        self.num_connections = 0
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._connections: dict[asyncio.Task[None], asyncio.Event] = {}

    async def listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    def fall_silent(self) -> None:
        """From now on swallow what comes on the connections that there are. New ones work."""
        for silent in self._connections.values():
            silent.set()

    def cut(self) -> None:
        """Close the connections that there are. New ones work."""
        for connection in self._connections:
            connection.cancel()

    async def close(self) -> None:
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        connection = asyncio.current_task()
        assert connection is not None
        silent = self._connections[connection] = asyncio.Event()
        try:
            # A connection that was closed, or cut.
            with suppress(OSError, asyncio.CancelledError):
                upstream_reader, upstream_writer = await asyncio.open_connection(self._host, self._port)
                ways = ((reader, upstream_writer), (upstream_reader, writer))
                try:
                    async with asyncio.TaskGroup() as group:
                        for source, sink in ways:
                            group.create_task(_pass_on(source, sink, silent))
                finally:
                    upstream_writer.close()
        finally:
            writer.close()
            del self._connections[connection]


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silent: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            if not silent.is_set():
                writer.write(data)
                await writer.drain()
        if not silent.is_set():
            writer.close()


@asynccontextmanager
async def relaying(address: str) -> AsyncIterator[Relay]:
    """A relay in front of a server."""
    relay = Relay(address)
    server = await relay.listen()
    try:
        yield relay
    finally:
        server.close()
        await relay.close()
