import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.frame.channel import open_channel
from services.frame.server import FrameServer
from services.frame.settings import ServerSettings
from services.frame.startup import StartupError

Connect = Callable[[FrameServer], grpc.aio.Channel]


async def echo(channel: grpc.aio.Channel, message: bytes = b"hello") -> bytes:
    reply: bytes = await channel.unary_unary("/test.Echo/Echo")(message)
    return reply


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
    async def length(request: bytes, context: Any) -> bytes:
        return str(len(request)).encode()

    async def zeros(request: bytes, context: Any) -> bytes:
        return bytes(int(request))

    handlers = {
        "Length": grpc.unary_unary_rpc_method_handler(length),
        "Zeros": grpc.unary_unary_rpc_method_handler(zeros),
    }
    limit = 64 * 1024
    channel = connect(await serve(handlers, max_message_bytes=limit))
    ask_length, ask_zeros = (channel.unary_unary(f"/test.Echo/{name}") for name in handlers)
    for refused_call in (ask_length(bytes(limit + 1)), ask_zeros(str(limit + 1).encode())):
        assert await refused_call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await ask_length(bytes(limit)) == str(limit).encode()
    assert len(await ask_zeros(str(limit).encode())) == limit


async def test_messages_over_the_limit_of_gRPC_itself_get_through(serve: Any) -> None:
    async with open_channel((await serve()).address) as channel:
        assert len(await echo(channel, bytes(5 * 1024 * 1024))) == 5 * 1024 * 1024


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
        monkeypatch.setattr("services.frame.server.check_free", lambda *_: None)
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
