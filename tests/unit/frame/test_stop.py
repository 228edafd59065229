"""The graceful end, and ends that are not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from services.frame.program.settings import ServerSettings
from services.frame.program.startup import StartupError
from services.frame.rpc.call_status import CallStatus
from services.frame.rpc.errors import error_from_rpc
from services.frame.rpc.health import watch_health
from services.frame.server import FrameServer
from tests.waiting import PATIENCE_S

Connect = Callable[[FrameServer], grpc.aio.Channel]


class Gate:
    """A method that begins, says so, and goes on when it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.was_cancelled = False
        self.handlers = {"Wait": grpc.unary_unary_rpc_method_handler(self._wait)}

    async def _wait(self, request: bytes, context: Any) -> bytes:
        self.begun.set()
        try:
            await self.may_go_on.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return request

    async def call(self, channel: grpc.aio.Channel) -> asyncio.Future[bytes]:
        """Start a call and return once the server is at work on it."""
        running = asyncio.ensure_future(_awaited(channel.unary_unary("/test.Echo/Wait")(b"late")))
        await self.begun.wait()
        return running


async def _awaited(call: Any) -> bytes:
    reply: bytes = await call
    return reply


async def test_calls_under_way_end_before_the_application_stops(application_class: Any, connect: Connect) -> None:
    gate = Gate()
    application = application_class(gate.handlers)
    server = FrameServer(ServerSettings(drain_timeout_s=60), application)
    await server.start()
    running = await gate.call(connect(server))
    stopping = asyncio.ensure_future(server.stop())
    await server.draining.wait()
    assert application.events == ["starting", "started"]
    gate.may_go_on.set()
    assert await running == b"late"
    await stopping
    assert application.events == ["starting", "started", "stopped"]


async def test_watchers_hold_nothing_up(serve: Any, connect: Connect) -> None:
    server = await serve(drain_timeout_s=3600)
    watch = watch_health(connect(server), "test.Echo")
    assert await anext(watch)
    await asyncio.wait_for(server.stop(), 30)
    assert [is_serving async for is_serving in watch] == [False]


async def test_new_calls_are_refused_while_draining(serve: Any, connect: Connect) -> None:
    gate = Gate()
    server = await serve(gate.handlers, drain_timeout_s=60)
    channel = connect(server)
    running = await gate.call(channel)
    stopping = asyncio.ensure_future(server.stop())
    await server.draining.wait()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary("/test.Echo/Wait")(b"too late")
    error = error_from_rpc(refused.value)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
    gate.may_go_on.set()
    assert await running == b"late"
    await stopping


async def test_a_call_that_came_before_the_end_and_its_request_after_is_refused(
    serve: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.frame.server.GOODBYE_S", PATIENCE_S)
    gate = Gate()
    server: FrameServer = await serve(gate.handlers, drain_timeout_s=60)
    has_come = asyncio.Event()
    find = server._registry.service

    def found(details: grpc.HandlerCallDetails) -> Any:
        has_come.set()
        return find(details)

    monkeypatch.setattr(server._registry, "service", found)
    # A client that sends its request later than its call.
    stream: Any = connect(server).stream_stream("/test.Echo/Wait")()
    status = CallStatus(stream)
    await has_come.wait()
    stopping = asyncio.ensure_future(server.stop())
    await server.draining.wait()
    with contextlib.suppress(grpc.aio.AioRpcError):  # of which the status knows more
        await stream.write(b"late")
    error = await status.error()
    assert error is not None
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
    assert not gate.begun.is_set()
    await stopping


async def test_calls_that_outlast_the_drain_are_cancelled(
    application_class: Any, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    application = application_class(gate.handlers)
    server = FrameServer(ServerSettings(), application)
    await server.start()
    running = await gate.call(connect(server))
    await server.stop(0)
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await running
    assert ended.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert gate.was_cancelled
    assert application.events[-1] == "stopped"
    assert "1 calls cancelled" in caplog.text


async def test_long_streams_can_end_when_draining_begins(serve: Any, connect: Connect) -> None:
    servers: list[FrameServer] = []

    async def until_draining(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        yield b"open"
        await servers[0].draining.wait()

    server = await serve({"Stream": grpc.stream_stream_rpc_method_handler(until_draining)}, drain_timeout_s=3600)
    servers.append(server)
    stream = connect(server).stream_stream("/test.Echo/Stream")()
    assert await stream.read() == b"open"
    await asyncio.wait_for(server.stop(), 30)
    assert await stream.code() is grpc.StatusCode.OK


async def test_stopping_twice_stops_the_application_once(application_class: Any) -> None:
    application = application_class()
    async with FrameServer(ServerSettings(), application) as server:
        await server.stop()
    assert application.events == ["starting", "started", "stopped"]


async def test_a_start_that_fails_lets_go_of_everything(application_class: Any, serve: Any) -> None:
    async def refuse() -> None:
        raise StartupError("the model is missing")

    application = application_class(loading=refuse())
    server = FrameServer(ServerSettings(), application)
    with pytest.raises(StartupError, match="the model is missing"):
        async with server:
            pass
    assert application.events == ["starting", "stopped"]
    assert (await serve(port=server.port)).port == server.port


async def test_an_application_that_never_began_is_not_stopped(serve: Any, application_class: Any) -> None:
    application = application_class()
    server = FrameServer(ServerSettings(port=(await serve()).port), application)
    with pytest.raises(StartupError):
        async with server:
            pass
    assert application.events == []


async def test_the_first_failure_counts(serve: Any) -> None:
    server = await serve()
    assert not server.ended.is_set()
    server.fail("the device is gone")
    server.fail("a later consequence")
    assert server.ended.is_set()
    assert server.failure == "the device is gone"
