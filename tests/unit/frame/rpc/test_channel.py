import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from services.frame import server
from services.frame.rpc import channel
from services.frame.rpc.channel import RETRY_POLICY, channel_options, open_channel, service_config
from services.frame.rpc.errors import ServiceError
from services.frame.server import FrameServer
from tests.calls import replies


class Flaky:
    """Answers UNAVAILABLE to the first calls of each method."""

    def __init__(self, num_failures: int) -> None:
        self.num_failures = num_failures
        self.num_calls = 0
        self.handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Other": grpc.unary_unary_rpc_method_handler(self._unary),
            "Stream": grpc.stream_stream_rpc_method_handler(self._stream),
        }

    async def _unary(self, request: bytes, context: Any) -> bytes:
        self.num_calls += 1
        if self.num_calls <= self.num_failures:
            raise ServiceError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", "not yet")
        return request

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self._unary(request, context)


RETRIED = service_config([("test.Echo", "Unary")])


@pytest.mark.parametrize("num_bytes", [1, 3_000_000])
async def test_a_named_unary_method_is_retried(serve: Any, num_bytes: int) -> None:
    flaky = Flaky(num_failures=1)
    address = (await serve(flaky.handlers)).address
    async with open_channel(address, config=RETRIED) as opened:
        assert await opened.unary_unary("/test.Echo/Unary")(bytes(num_bytes)) == bytes(num_bytes)
    assert flaky.num_calls == 2


@pytest.mark.parametrize("method", ["Other", "Stream"])
async def test_other_methods_are_not_retried(serve: Any, method: str) -> None:
    flaky = Flaky(num_failures=1)
    address = (await serve(flaky.handlers)).address
    async with open_channel(address, config=RETRIED) as opened:
        if method == "Other":
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await opened.unary_unary("/test.Echo/Other")(b"a")
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        else:
            with pytest.raises(ServiceError, match="not yet"):
                await replies(opened.stream_stream("/test.Echo/Stream")([b"a"]))
    assert flaky.num_calls == 1


async def test_a_channel_finds_a_server_that_came_back(serve: Any, application_class: Any) -> None:
    first: FrameServer = await serve()
    async with open_channel(first.address) as opened:
        echo = opened.unary_unary("/test.Echo/Echo")
        assert await echo(b"a") == b"a"
        await first.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await echo(b"b")
        await serve(port=first.port)
        assert await echo(b"c", wait_for_ready=True, timeout=30) == b"c"


async def test_messages_are_limited_on_both_ways(serve: Any) -> None:
    address = (await serve()).address
    async with open_channel(address, max_message_bytes=1000) as opened:
        echo = opened.unary_unary("/test.Echo/Echo")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await echo(bytes(1001))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_method_and_a_whole_service_are_called_again() -> None:
    (method_config,) = json.loads(service_config([("a.B", "C"), ("a.D", "")]))["methodConfig"]
    assert method_config["name"] == [{"service": "a.B", "method": "C"}, {"service": "a.D", "method": ""}]
    assert method_config["retryPolicy"] == RETRY_POLICY


def test_options_of_the_caller_are_added() -> None:
    options = dict(channel_options(1000, RETRIED))
    assert options["grpc.service_config"] == RETRIED
    assert options["grpc.max_reconnect_backoff_ms"] == 1000
    assert options["grpc.max_receive_message_length"] == options["grpc.max_send_message_length"] == 1000


def test_clients_ping_no_more_often_than_servers_allow() -> None:
    """A server answers too many pings by closing the connection, under all of its streams."""
    pings, limits = dict(channel.KEEPALIVE_OPTIONS), dict(server.KEEPALIVE_OPTIONS)
    interval_ms = pings["grpc.keepalive_time_ms"]
    assert isinstance(interval_ms, int)
    assert interval_ms > limits["grpc.http2.min_ping_interval_without_data_ms"]
    assert limits["grpc.keepalive_permit_without_calls"] == 1
