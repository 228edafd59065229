import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest.mock import MagicMock

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.frame.errors import error_from_rpc
from services.frame.health import HealthService
from services.frame.server import FrameServer
from services.frame.settings import ServerSettings
from services.frame.startup import StartupError

Connect = Callable[[FrameServer], grpc.aio.Channel]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(channel: grpc.aio.Channel, service: str = "test.Echo") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    response: health_pb2.HealthCheckResponse = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return response.status


def watch_health(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="test.Echo"))


async def echo(channel: grpc.aio.Channel, message: bytes = b"hello") -> bytes:
    reply: bytes = await channel.unary_unary("/test.Echo/Echo")(message)
    return reply


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


async def test_while_loading_health_says_so_and_methods_ask_to_come_back(
    application_class: Any, connect: Connect
) -> None:
    loaded = asyncio.Event()
    server = FrameServer(ServerSettings(), application_class(loading=loaded.wait()))
    try:
        assert await server.listen() == server.port > 0
        starting = asyncio.ensure_future(server.start())
        channel = connect(server)
        assert await health_of(channel) == await health_of(channel, "") == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await echo(channel)
        error = error_from_rpc(refused.value)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
        assert error.retry_after_s is not None
        loaded.set()
        await starting
        assert await health_of(channel) == await health_of(channel, "") == SERVING
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
        assert [await call.code() for call in calls] == [grpc.StatusCode.UNAVAILABLE] * 4
    finally:
        await server.stop(0)


async def test_an_application_can_take_its_health_back(serve: Any, connect: Connect) -> None:
    server = await serve()
    channel = connect(server)
    server.set_serving(False)
    assert await health_of(channel) == NOT_SERVING
    server.set_serving(True)
    assert await health_of(channel) == SERVING


async def test_health_of_an_unknown_service(serve: Any, connect: Connect) -> None:
    channel = connect(await serve())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await health_of(channel, "test.Other")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="test.Other"))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_a_watch_hears_every_change(serve: Any, connect: Connect) -> None:
    server = await serve()
    watch = watch_health(connect(server))
    heard = [(await watch.read()).status]
    for is_serving in (False, True):
        server.set_serving(is_serving)
        heard.append((await watch.read()).status)
    assert heard == [SERVING, NOT_SERVING, SERVING]


async def test_health_is_not_taken_back_once_the_end_has_begun() -> None:
    service = HealthService()
    service.set("a", True)
    service.end()
    service.set("a", True)
    response = await service.Check(health_pb2.HealthCheckRequest(service="a"), MagicMock())
    assert response.status == NOT_SERVING


async def test_reflection_lists_and_describes_services(serve: Any, connect: Connect) -> None:
    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health")

    stub = reflection_pb2_grpc.ServerReflectionStub(connect(await serve()))
    listed, described = [reply async for reply in stub.ServerReflectionInfo(requests())]
    names = {service.name for service in listed.list_services_response.service}
    assert names == {"test.Echo", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    (content,) = described.file_descriptor_response.file_descriptor_proto
    assert descriptor_pb2.FileDescriptorProto.FromString(content).package == "grpc.health.v1"


async def test_a_message_over_the_limit_is_refused_and_others_go_on(serve: Any, connect: Connect) -> None:
    channel = connect(await serve(max_message_bytes=64 * 1024))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await echo(channel, bytes(64 * 1024 + 1))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(await echo(channel, bytes(64 * 1024))) == 64 * 1024


async def test_a_busy_port_is_one_sentence(
    serve: Any, application_class: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    port = (await serve()).port
    with pytest.raises(StartupError, match=rf"^cannot listen on 127.0.0.1:{port} \(Address already in use\): choose"):
        await FrameServer(ServerSettings(port=port), application_class()).listen()
    # gRPC tells of a failed bind on stderr by itself.
    assert capfd.readouterr().err == ""


async def test_a_port_that_gRPC_finds_busy_is_one_sentence_too(
    application_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may take the port between our look at it and gRPC's."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr("services.frame.server._check_free", lambda *_: None)
        with pytest.raises(StartupError, match=f"^cannot listen on 127.0.0.1:{port} "):
            await FrameServer(ServerSettings(port=port), application_class()).listen()


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid", "a..b", "127.0.0.1:80"])
async def test_an_unusable_host_is_one_sentence(
    host: str, application_class: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StartupError, match=r"^cannot listen on .* choose another --host or --port$"):
        await FrameServer(ServerSettings(host=host), application_class()).listen()
    assert capfd.readouterr().err == ""


async def test_localhost_is_a_host(serve: Any, connect: Connect) -> None:
    server = await serve(host="localhost")
    assert server.address == f"localhost:{server.port}"
    assert await echo(connect(server)) == b"hello"


async def test_a_port_is_free_again_after_the_server_has_stopped(serve: Any, connect: Connect) -> None:
    first = await serve()
    await echo(connect(first))
    await first.stop()
    second = await serve(port=first.port)
    assert second.port == first.port


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


async def test_watchers_hear_of_the_end_and_hold_nothing_up(serve: Any, connect: Connect) -> None:
    server = await serve(drain_timeout_s=3600)
    watch = watch_health(connect(server))
    assert (await watch.read()).status == SERVING
    await asyncio.wait_for(server.stop(), 30)
    assert (await watch.read()).status == NOT_SERVING
    assert await watch.code() is grpc.StatusCode.OK


async def test_new_calls_are_refused_while_draining(serve: Any, connect: Connect) -> None:
    gate = Gate()
    server = await serve(gate.handlers, drain_timeout_s=60)
    channel = connect(server)
    watch = watch_health(channel)
    await watch.read()
    running = await gate.call(channel)
    stopping = asyncio.ensure_future(server.stop())
    assert (await watch.read()).status == NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary("/test.Echo/Wait")(b"too late")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    gate.may_go_on.set()
    assert await running == b"late"
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
