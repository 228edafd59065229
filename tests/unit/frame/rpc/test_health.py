"""Health as clients see it, from loading to the end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest.mock import MagicMock

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.frame.program.settings import ServerSettings
from services.frame.rpc.call_status import CallStatus
from services.frame.rpc.errors import ServiceError, error_from_rpc
from services.frame.rpc.health import SERVING, HealthService, check_health, watch_health
from services.frame.server import FrameServer
from tests.calls import replies

Connect = Callable[[FrameServer], grpc.aio.Channel]


async def is_serving(channel: grpc.aio.Channel, service: str = "test.Echo") -> bool:
    return await check_health(channel, service, timeout_s=30)


async def echo(channel: grpc.aio.Channel, message: bytes = b"hello") -> bytes:
    reply: bytes = await channel.unary_unary("/test.Echo/Echo")(message)
    return reply


async def test_while_loading_health_says_so_and_methods_ask_to_come_back(
    application_class: Any, connect: Connect
) -> None:
    loaded = asyncio.Event()
    server = FrameServer(ServerSettings(), application_class(loading=loaded.wait()))
    try:
        assert await server.listen() == server.port > 0
        starting = asyncio.ensure_future(server.start())
        channel = connect(server)
        assert not await is_serving(channel)
        assert not await is_serving(channel, "")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await echo(channel)
        error = error_from_rpc(refused.value)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
        assert error.retry_after_s is not None
        loaded.set()
        await starting
        assert await is_serving(channel)
        assert await is_serving(channel, "")
        assert await echo(channel) == b"hello"
    finally:
        await server.stop(0)


async def test_every_kind_of_call_is_refused_while_loading(application_class: Any, connect: Connect) -> None:
    async def one() -> AsyncIterator[bytes]:
        yield b""

    server = FrameServer(ServerSettings(), application_class())
    try:
        await server.listen()
        channel = connect(server)
        calls: list[Any] = [
            channel.unary_unary("/test.Echo/A")(b""),
            channel.stream_unary("/test.Echo/A")(one()),
            channel.unary_stream("/test.Echo/A")(b""),
            channel.stream_stream("/test.Echo/A")(one()),
        ]
        statuses = [CallStatus(call) for call in calls]
        errors = [await status.error() for status in statuses]
        assert [error and error.code for error in errors] == [grpc.StatusCode.UNAVAILABLE] * 4
    finally:
        await server.stop(0)


async def test_health_of_everything(serve: Any, connect: Connect) -> None:
    server = await serve()
    stub = health_pb2_grpc.HealthStub(connect(server))
    for is_serving in (True, False):
        server.set_serving(is_serving)
        listed = await stub.List(health_pb2.HealthListRequest())  # type: ignore[attr-defined]
        assert {name: reply.status == SERVING for name, reply in listed.statuses.items()} == {
            "": is_serving,
            "test.Echo": is_serving,
        }


@pytest.mark.parametrize("method", ["Check", "List", "Watch"])
async def test_health_refuses_what_is_no_request(serve: Any, connect: Connect, method: str) -> None:
    channel = connect(await serve())
    with pytest.raises(ServiceError) as failed:
        await replies(channel.unary_stream(f"/grpc.health.v1.Health/{method}")(b"\xff"))
    assert (failed.value.code, failed.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_an_application_can_take_its_health_back(serve: Any, connect: Connect) -> None:
    server = await serve()
    channel = connect(server)
    server.set_serving(False)
    assert not await is_serving(channel)
    server.set_serving(True)
    assert await is_serving(channel)


async def test_health_of_an_unknown_service(serve: Any, connect: Connect) -> None:
    channel = connect(await serve())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await is_serving(channel, "test.Other")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    async for known_as_serving in watch_health(channel, "test.Other"):
        assert not known_as_serving
        break


async def test_a_watch_hears_every_change_and_ends_with_the_server(serve: Any, connect: Connect) -> None:
    server = await serve()
    channel = connect(server)
    heard = []
    async for known_as_serving in watch_health(channel, "test.Echo"):
        heard.append(known_as_serving)
        if len(heard) < 3:
            server.set_serving(not known_as_serving)
        elif len(heard) == 3:
            stopping = asyncio.ensure_future(server.stop())
    await stopping
    assert heard == [True, False, True, False]


async def test_a_watch_hears_of_an_end_that_begins_while_it_is_told_of_something_else() -> None:
    service = HealthService()
    service.set("a", True)
    watch = service.Watch(health_pb2.HealthCheckRequest(service="a"), MagicMock())
    first = await anext(watch)
    service.end()
    heard = [first.status, *[response.status async for response in watch]]
    assert heard == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]


async def test_health_is_not_taken_back_once_the_end_has_begun() -> None:
    service = HealthService()
    service.set("a", True)
    service.end()
    service.set("a", True)
    response = await service.Check(health_pb2.HealthCheckRequest(service="a"), MagicMock())
    assert response.status == health_pb2.HealthCheckResponse.NOT_SERVING
