import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2

from services.frame.program.settings import ServerSettings
from services.frame.program.startup import StartupError
from services.frame.rpc.call_status import CallStatus
from services.frame.rpc.channel import open_channel
from services.frame.server import FrameServer

Connect = Callable[[FrameServer], grpc.aio.Channel]


async def echo(channel: grpc.aio.Channel, message: bytes = b"hello") -> bytes:
    reply: bytes = await channel.unary_unary("/test.Echo/Echo")(message)
    return reply


VERSIONS = ("v1", "v1alpha")


def reflect(channel: grpc.aio.Channel, version: str) -> Any:
    """The method of one version of reflection; all have the same messages."""
    return channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )


@pytest.mark.parametrize("version", VERSIONS)
async def test_reflection_lists_and_describes_services(serve: Any, connect: Connect, version: str) -> None:
    names = {"test.Echo", "grpc.health.v1.Health", *(f"grpc.reflection.{each}.ServerReflection" for each in VERSIONS)}
    described = sorted(names - {"test.Echo"})
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    requests += [reflection_pb2.ServerReflectionRequest(file_containing_symbol=name) for name in described]
    listed, *files = [reply async for reply in reflect(connect(await serve()), version)(requests)]
    assert {service.name for service in listed.list_services_response.service} == names
    pool = descriptor_pool.DescriptorPool()
    for name, reply in zip(described, files, strict=True):
        (content,) = reply.file_descriptor_response.file_descriptor_proto
        pool.AddSerializedFile(content)
        assert all(method.input_type.file.package in name for method in pool.FindServiceByName(name).methods)


@pytest.mark.parametrize("version", VERSIONS)
async def test_reflection_refuses_what_is_no_request(serve: Any, connect: Connect, version: str) -> None:
    channel = connect(await serve())
    call = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")([b"\xff"])
    error = await CallStatus(call).error()
    assert error is not None
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


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


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid", "a..b", "127.0.0.1:80", "*", "0", "127.1"])
async def test_an_unusable_host_is_one_sentence(
    host: str, application_class: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StartupError, match=r"^cannot listen on .* choose another --host or --port$"):
        await FrameServer(ServerSettings(host=host, allow_anyone=True), application_class()).listen()
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


async def test_a_unix_socket_is_a_host(serve: Any, connect: Connect, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/a socket"
    first = await serve(host=address)
    assert first.address == address
    assert await echo(connect(first)) == b"hello"
    await first.stop()
    assert await echo(connect(await serve(host=address))) == b"hello"


async def test_a_unix_socket_that_a_dead_server_has_left_is_taken(serve: Any, connect: Connect, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "socket"))
    assert await echo(connect(await serve(host=f"unix:{tmp_path}/socket"))) == b"hello"


async def test_a_unix_socket_of_a_server_that_lives_is_not_taken(
    serve: Any, connect: Connect, tmp_path: Path, application_class: Any
) -> None:
    address = f"unix:{tmp_path}/socket"
    channel = connect(await serve(host=address))
    with pytest.raises(
        StartupError, match=r"^cannot listen on .*/socket \(Address already in use\): choose another --host$"
    ):
        await FrameServer(ServerSettings(host=address), application_class()).listen()
    assert await echo(channel) == b"hello"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "no path is named"),
        ("{}/missing/socket", "No such file or directory"),
        ("{}/file", "a file that is no socket is there"),
        ("{}/" + 200 * "x", "AF_UNIX path too long"),
    ],
)
async def test_an_unusable_unix_socket_is_one_sentence(
    path: str, reason: str, application_class: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StartupError, match=rf"^cannot listen on unix:.*\({reason}\): choose another --host$"):
        await FrameServer(ServerSettings(host="unix:" + path.format(tmp_path)), application_class()).listen()
    assert capfd.readouterr().err == ""
    assert (tmp_path / "file").read_text() == "a file"
