"""Connections that a middlebox drops without a word, and names that change their address."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from services.frame import server
from services.frame.rpc import channel
from services.frame.rpc.channel import open_channel
from services.frame.server import FrameServer
from tests.ports import free_port
from tests.relay import relaying, scaled
from tests.waiting import PATIENCE_S, soon


class Waiting:
    """A method that answers at once or never, and knows how many of its calls are under way."""

    def __init__(self) -> None:
        self.num_under_way = 0
        self.handlers = {"Ask": grpc.unary_unary_rpc_method_handler(self._ask)}

    async def _ask(self, request: bytes, context: Any) -> bytes:
        self.num_under_way += 1
        try:
            if request == b"never":
                await asyncio.Event().wait()
            return request
        finally:
            self.num_under_way -= 1


@pytest.mark.parametrize("options", [channel.KEEPALIVE_OPTIONS, server.KEEPALIVE_OPTIONS])
def test_a_silent_connection_is_given_up_after_25_s(options: Any) -> None:
    values = dict(options)
    assert values["grpc.keepalive_time_ms"] + values["grpc.http2.ping_timeout_ms"] == 25_000
    assert values["grpc.keepalive_permit_without_calls"] == 1


async def test_a_client_gives_up_a_silent_connection(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEPALIVE_OPTIONS", scaled(server.KEEPALIVE_OPTIONS))
    monkeypatch.setattr(channel, "KEEPALIVE_OPTIONS", scaled(channel.KEEPALIVE_OPTIONS))
    waiting = Waiting()
    async with relaying((await serve(waiting.handlers)).address) as relay, open_channel(relay.address) as opened:
        ask = opened.unary_unary("/test.Echo/Ask")
        hanging = ask(b"never", timeout=PATIENCE_S)
        await soon(lambda: waiting.num_under_way == 1)
        relay.fall_silent()
        assert await hanging.code() is grpc.StatusCode.UNAVAILABLE
        assert await _answered(ask, b"a") == b"a"
        assert relay.num_connections == 2


async def _answered(ask: Any, message: bytes) -> Any:
    """Ask again while the channel hands out the connection that it has just given up, for a moment after the error."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            call = ask(message)
            if await call.code() is not grpc.StatusCode.UNAVAILABLE:
                return await call


async def test_a_server_gives_up_a_silent_connection(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client may be gone, and its work is nobody's any more."""
    monkeypatch.setattr(server, "KEEPALIVE_OPTIONS", scaled(server.KEEPALIVE_OPTIONS))
    waiting = Waiting()
    async with (
        relaying((await serve(waiting.handlers)).address) as relay,
        grpc.aio.insecure_channel(relay.address) as opened,
    ):
        hanging = opened.unary_unary("/test.Echo/Ask")(b"never")
        await soon(lambda: waiting.num_under_way == 1)
        relay.fall_silent()
        await soon(lambda: waiting.num_under_way == 0)
        hanging.cancel()


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for an IPv4 address with `address`, and any other with nothing."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, sender: Any) -> None:
        end_of_name = data.index(0, 12) + 1
        question = data[12 : end_of_name + 4]
        is_ipv4 = data[end_of_name : end_of_name + 2] == b"\0\1"
        # https://www.rfc-editor.org/rfc/rfc1035#section-4.1: a response with one question, and one answer or none.
        head = data[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_ipv4 else b"\0\0") + bytes(4)
        # The name is the question's, the answer good for an hour.
        answer = b"\xc0\x0c\0\1\0\1\0\0\x0e\x10\0\4" + socket.inet_aton(self.address)
        self._transport.sendto(head + question + (answer if is_ipv4 else b""), sender)


@asynccontextmanager
async def naming(address: str) -> AsyncIterator[tuple[NameServer, str]]:
    """A name server, and where it is."""
    loop = asyncio.get_running_loop()
    transport, names = await loop.create_datagram_endpoint(lambda: NameServer(address), ("127.0.0.1", 0))
    try:
        yield names, "{}:{}".format(*transport.get_extra_info("sockname"))
    finally:
        transport.close()


async def test_a_name_that_changes_its_address_is_found(serve: Any, application_class: Any) -> None:
    first: FrameServer = await serve(host="127.0.0.1", port=free_port())
    async with naming("127.0.0.1") as (names, where), open_channel(f"dns://{where}/peer.test:{first.port}") as opened:
        echo = opened.unary_unary("/test.Echo/Echo")
        assert await echo(b"a", timeout=PATIENCE_S) == b"a"
        await first.stop(0)
        names.address = "127.0.0.2"
        await serve(host="127.0.0.2", port=first.port)
        # gRPC by itself asks for a name no more often than each half minute.
        assert await echo(b"b", wait_for_ready=True, timeout=PATIENCE_S / 2) == b"b"
