"""The server around the application, over real connections."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest

from orchestrator.http.server import HttpServer
from outrider.v1 import generation_pb2
from services.frame.program.startup import StartupError
from services.frame.rpc.errors import ServiceError
from tests.certificates import Files, write_files
from tests.unit.orchestrator.http.scripted_face import Face, chunk, face, summary
from tests.waiting import PATIENCE_S, soon

HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: face\r\ncontent-type: application/json\r\n"
STREAM = b'{"prompt": "a", "stream": true}'


@asynccontextmanager
async def serving(script: Any = None, **settings: Any) -> AsyncIterator[tuple[Face, HttpServer]]:
    """A face that listens."""
    async with face(**{"script": script} if script else {}, http="127.0.0.1:0", **settings) as made:
        server = HttpServer(made.served.settings, made.app)
        await server.start()
        try:
            yield made, server
        finally:
            await server.stop()


async def connect(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def ask(server: HttpServer, body: bytes = STREAM) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await connect(server)
    writer.write(HEAD + f"content-length: {len(body)}\r\n\r\n".encode() + body)
    return reader, writer


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with serving() as (_, server), httpx2.AsyncClient(base_url=server.url) as client:
        for _ in range(3):
            answer = await client.post("/v1/completions", json={"prompt": "a"})
            assert answer.json()["choices"][0]["text"] == "Hello world!"
        assert server.url.startswith("http://127.0.0.1:")


async def test_a_client_that_hangs_up_ends_its_generation() -> None:
    never = asyncio.Event().wait
    async with serving(lambda request: [chunk("Hello"), never]) as (made, server):
        reader, writer = await ask(server)
        await reader.readuntil(b"Hello")
        writer.close()
        await soon(lambda: made.service.num_cancelled == 1)
        await soon(lambda: made.registry.num_under_way == 0)


async def test_a_reader_that_stalls_holds_its_generation_and_is_cut_in_the_end() -> None:
    """However much there is to write: no more is held than the connection's buffers."""
    large, num_sent = chunk("x" * (1 << 20)), 0
    is_over = asyncio.Event()
    async with serving() as (made, server):

        async def send_for_ever(send: Any) -> None:
            nonlocal num_sent
            while True:
                await send(generation_pb2.GenerateResponse(chunk=large))
                num_sent += 1

        async def generate(request: Any, headers: Any, send: Any) -> None:
            sending = asyncio.create_task(send_for_ever(send))
            await is_over.wait()
            sending.cancel()
            await asyncio.wait([sending])
            raise ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "UNREAD", "nothing was read")

        made.service.generate = generate  # type: ignore[method-assign]
        reader, writer = await ask(server)
        await soon(lambda: num_sent)
        before = -1
        while before != num_sent:
            before = num_sent
            await asyncio.sleep(0.05)
        assert num_sent < 32
        is_over.set()
        # Cut, and not closed once somebody has read it all.
        await soon(lambda: made.registry.num_under_way == 0)
        await soon(lambda: not server._server.server_state.connections)
        with suppress(ConnectionResetError):
            assert not (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()


async def test_a_body_of_100_mb_is_refused_before_it_is_sent() -> None:
    async with serving() as (_, server):
        reader, writer = await connect(server)
        writer.write(HEAD + b"content-length: 100000000\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()


async def test_a_body_without_an_announced_length_is_refused_once_it_is_too_large() -> None:
    async with serving(max_message_bytes=1 << 16) as (_, server):
        reader, writer = await connect(server)
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n" + (b"1000\r\n" + b" " * 4096 + b"\r\n") * 17)
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.close()


async def test_what_is_no_http_is_refused() -> None:
    async with serving() as (_, server):
        reader, writer = await connect(server)
        writer.write(b"hello\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 400 ")
        assert await reader.read() is not None
        writer.close()


async def test_the_end_is_told_to_those_it_cuts_off() -> None:
    never = asyncio.Event().wait
    async with serving(lambda request: [chunk("Hello"), never]) as (made, server):
        reader, writer = await ask(server)
        idle, other = await connect(server)
        await reader.readuntil(b"Hello")
        await asyncio.wait_for(server.stop(), PATIENCE_S)
        assert b"the service is stopping" in await reader.read()
        assert await idle.read() == b""
        assert made.service.num_active == 0
        for each in (writer, other):
            each.close()
        with pytest.raises(OSError):
            await connect(server)


async def test_streams_end_before_the_server_does() -> None:
    """As the frame of all services waits for calls under way."""
    go_on = asyncio.Event()
    async with serving(lambda request: [chunk("Hello"), go_on.wait, chunk("!"), summary()]) as (made, server):
        reader, writer = await ask(server)
        await reader.readuntil(b"Hello")
        made.registry.is_draining = True
        refused, other = await ask(server)
        assert (await refused.readline()).startswith(b"HTTP/1.1 503 ")
        go_on.set()
        await asyncio.wait_for(made.registry.wait_idle(), PATIENCE_S)
        assert b"[DONE]" in await reader.readuntil(b"[DONE]")
        for each in (writer, other):
            each.close()


async def test_an_address_that_is_taken() -> None:
    async with serving() as (made, server):
        taken = server.url.removeprefix("http://")
        second = HttpServer(made.served.settings.model_copy(update={"http": taken}), made.app)
        with pytest.raises(StartupError, match=f"cannot listen on {taken} .*: choose another --http$"):
            await second.start()


def settings_of(files: Files, *, is_mutual: bool = False) -> dict[str, Path]:
    settings = {"tls_cert": files.cert, "tls_key": files.key}
    return settings | {"tls_client_ca": files.ca} if is_mutual else settings


async def status(server: HttpServer, authority: Path, own: Sequence[Path] = ()) -> int:
    context = ssl.create_default_context(cafile=authority)
    if own:
        context.load_cert_chain(*own)
    async with httpx2.AsyncClient(base_url=server.url, verify=context) as client:
        return (await client.get("/health")).status_code


async def test_https_where_grpc_has_tls(tmp_path: Path) -> None:
    ours, theirs = write_files(tmp_path / "ours"), write_files(tmp_path / "theirs")
    async with serving(**settings_of(ours)) as (_, server):
        assert server.url.startswith("https://")
        assert await status(server, ours.ca) == 200
        with pytest.raises(httpx2.ConnectError):
            await status(server, theirs.ca)
        # Files that have changed are those of the next connection.
        for old, new in ((ours.cert, theirs.cert), (ours.key, theirs.key)):
            old.write_bytes(new.read_bytes())
        assert await status(server, theirs.ca) == 200


async def test_clients_show_a_certificate_where_grpcs_have_to(tmp_path: Path) -> None:
    ours, theirs = write_files(tmp_path / "ours"), write_files(tmp_path / "theirs")
    async with serving(**settings_of(ours, is_mutual=True)) as (_, server):
        assert await status(server, ours.ca, (ours.cert, ours.key)) == 200
        for own in ((), (theirs.cert, theirs.key)):
            with pytest.raises((httpx2.TransportError, OSError)):
                await status(server, ours.ca, own)
