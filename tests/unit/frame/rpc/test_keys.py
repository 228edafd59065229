"""Servers that know their callers by key, over real connections."""

import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from services.frame.program.api_keys import caller_name
from services.frame.program.settings import PeerSettings, ServerSettings
from services.frame.program.startup import StartupError
from services.frame.rpc.channel import Credentials, client_credentials, open_channel
from services.frame.rpc.errors import ServiceError
from services.frame.rpc.health import check_health, watch_health
from services.frame.server import FrameServer
from tests.calls import replies

ALICE, BOB, MALLORY = "alice-0123456789", "bob-0123456789ab", "mallory-01234567"
METHODS = {
    "Unary": "unary_unary",
    "Generator": "unary_stream",
    "Collector": "stream_unary",
    "Duplex": "stream_stream",
}

Connect = Callable[[FrameServer], grpc.aio.Channel]


def called(name: str) -> bytes:
    return f"{name} by {caller_name.get()}".encode()


def telling_behaviors() -> dict[str, Any]:
    """A method of each kind; each answers with its own name and that of the key."""

    async def unary(request: bytes, context: Any) -> bytes:
        return called("Unary")

    async def generator(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield called("Generator")

    async def collector(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return called("Collector")

    async def duplex(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield called("Duplex")

    return {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Generator": grpc.unary_stream_rpc_method_handler(generator),
        "Collector": grpc.stream_unary_rpc_method_handler(collector),
        "Duplex": grpc.stream_stream_rpc_method_handler(duplex),
    }


def written(path: Path, **keys: str) -> Path:
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_text("".join(f"{name}: {key}\n" for name, key in keys.items()))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "keys.txt", alice=ALICE, bob=BOB)


@pytest.fixture
async def server(serve: Any, file: Path) -> FrameServer:
    started: FrameServer = await serve(telling_behaviors(), api_key_file=file)
    return started


async def call(channel: grpc.aio.Channel, method: str, *metadata: tuple[str, str]) -> list[bytes]:
    make = getattr(channel, METHODS[method])
    request = [b""] if METHODS[method].startswith("stream") else b""
    return await replies(make(f"/test.Echo/{method}")(request, metadata=metadata))


async def refusal(channel: grpc.aio.Channel, method: str, *metadata: tuple[str, str]) -> ServiceError:
    with pytest.raises(ServiceError) as refused:
        await call(channel, method, *metadata)
    return refused.value


@pytest.mark.parametrize("method", METHODS)
async def test_who_has_a_key_is_served_and_known_by_its_name(
    server: FrameServer, connect: Connect, method: str
) -> None:
    for name, key in (("alice", ALICE), ("bob", BOB)):
        answer = await call(connect(server), method, ("authorization", f"Bearer {key}"))
        assert answer == [f"{method} by {name}".encode()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "metadata",
    [
        [],
        [("authorization", f"Bearer {MALLORY}")],
        [("authorization", ALICE)],
        [("authorization", f"Basic {ALICE}")],
        [("x-key", ALICE)],
        [("authorization", "Bearer ")],
        [("authorization-bin", b"Bearer " + ALICE.encode())],
    ],
    ids=["nothing", "another", "no scheme", "another scheme", "another name", "empty", "binary"],
)
async def test_who_has_none_is_not_whatever_it_calls(
    server: FrameServer, connect: Connect, method: str, metadata: Any
) -> None:
    error = await refusal(connect(server), method, *metadata)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY")
    assert "authorization: Bearer KEY" in error.message
    assert server.keys is not None
    assert server.keys.num_refused == 1


async def test_strangers_learn_nothing_of_what_there_is(file: Path, application_class: Any, connect: Connect) -> None:
    """Neither which methods, nor what a server that is starting is at."""
    server = FrameServer(ServerSettings(api_key_file=file), application_class())
    try:
        await server.listen()
        server.announce_wait("loading secret.gguf")
        channel = connect(server)
        for path in ("/test.Echo/Unary", "/test.Echo/NoSuchMethod"):
            with pytest.raises(ServiceError) as refused:
                await replies(channel.unary_unary(path)(b""))
            assert refused.value.reason == "INVALID_API_KEY"
        error = await refusal(channel, "Unary", ("authorization", f"Bearer {ALICE}"))
        assert (error.reason, error.metadata["wait"]) == ("NOT_READY", "loading secret.gguf")
    finally:
        await server.stop(0)


async def test_health_and_reflection_ask_for_no_key(server: FrameServer, connect: Connect) -> None:
    channel = connect(server)
    assert await check_health(channel, "test.Echo")
    async for is_serving in watch_health(channel, "test.Echo"):
        assert is_serving
        break
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    method = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    answer = channel.stream_stream(
        method,
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )([request])
    (reply,) = [reply async for reply in answer]
    assert "test.Echo" in [service.name for service in reply.list_services_response.service]


async def test_changed_keys_hold_for_the_next_call(server: FrameServer, connect: Connect, file: Path) -> None:
    channel = connect(server)
    stream: Any = channel.stream_stream("/test.Echo/Duplex")(metadata=[("authorization", f"Bearer {ALICE}")])
    await stream.write(b"")
    assert await stream.read() == b"Duplex by alice"
    written(file, carol=MALLORY)
    assert (await refusal(channel, "Unary", ("authorization", f"Bearer {ALICE}"))).reason == "INVALID_API_KEY"
    assert await call(channel, "Unary", ("authorization", f"Bearer {MALLORY}")) == [b"Unary by carol"]
    # A stream that was let in goes on.
    await stream.write(b"")
    assert await stream.read() == b"Duplex by alice"
    stream.cancel()


@pytest.mark.parametrize("method", METHODS)
async def test_a_client_of_ours_shows_its_key(server: FrameServer, tmp_path: Path, method: str) -> None:
    path = tmp_path / "key.txt"
    credentials = client_credentials(PeerSettings(peer_api_key_file=written(path, bob=BOB)))
    async with open_channel(server.address, credentials=credentials) as channel:
        assert await call(channel, method, ("x-other", "1")) == [f"{method} by bob".encode()]
        written(path, alice=ALICE)
        assert await call(channel, method) == [f"{method} by alice".encode()]


async def test_no_key_is_in_a_log_or_a_repr(server: FrameServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for key in (ALICE, MALLORY):
        credentials = Credentials(key=lambda key=key: key)  # type: ignore[misc]
        async with open_channel(server.address, credentials=credentials) as channel:
            if key == ALICE:
                await call(channel, "Unary")
            else:
                await refusal(channel, "Unary")
        assert key not in f"{caplog.text} {credentials!r} {vars(server.keys)}"


async def test_unusable_keys_keep_a_server_from_listening(application_class: Any, tmp_path: Path) -> None:
    server = FrameServer(ServerSettings(api_key_file=tmp_path / "none.txt"), application_class())
    with pytest.raises(StartupError, match=r"^--api-key-file \S+ cannot be read"):
        await server.listen()
