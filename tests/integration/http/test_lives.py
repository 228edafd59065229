"""Clients that vanish, and the life of the orchestrator."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest

from services.frame.server import FrameServer
from tests.integration.conftest import Pair
from tests.integration.http.faces import Faces, both_faces, http_client, url_of
from tests.integration.services import orchestrator_server, target_server, until_idle
from tests.ports import free_port
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration

ASKED = {"prompt": "def main(", "max_tokens": 256, "stream": True, "outrider": {"mode": "off"}}


@pytest.fixture
async def faces(pair: Pair) -> AsyncIterator[Faces]:
    async with both_faces(pair.target, drain_timeout_s=PATIENCE_S) as faces:
        yield faces


async def ask(faces: Faces) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for a long text over a connection of its own."""
    host, port = url_of(faces.orchestrator).removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(ASKED).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return reader, writer


@pytest.mark.parametrize("num_decodes", [0, 3])
async def test_a_client_that_vanishes_frees_its_slot_within_a_cycle(faces: Faces, num_decodes: int) -> None:
    faces.gate.hold_after(num_decodes)
    _, writer = await ask(faces)
    await faces.gate.reached()
    writer.close()
    await soon(lambda: faces.orchestrator._registry.num_under_way == 0)
    faces.gate.open()
    await until_idle(faces.target)
    # The one that was held, and none after it.
    assert faces.gate.num_decodes == num_decodes + 1


async def test_answers_end_before_the_orchestrator_does(faces: Faces) -> None:
    faces.gate.hold_after(3)
    reader, writer = await ask(faces)
    await faces.gate.reached()
    stopping = asyncio.create_task(faces.orchestrator.stop())
    await faces.orchestrator.draining.wait()
    refused = await faces.http.post("/v1/completions", json=ASKED)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert (await faces.http.get("/health/ready")).status_code == 503
    assert (await faces.http.get("/health/live")).status_code == 200
    faces.gate.open()
    assert b"[DONE]" in await asyncio.wait_for(reader.read(), PATIENCE_S)
    await asyncio.wait_for(stopping, PATIENCE_S)
    writer.close()
    with pytest.raises(httpx2.ConnectError):
        await faces.http.get("/health/live")


async def test_it_lives_before_it_has_found_its_target(pair: Pair) -> None:
    port = free_port()
    orchestrator = orchestrator_server(f"127.0.0.1:{port}", http="127.0.0.1:0")
    starting = asyncio.create_task(orchestrator.start())
    try:
        await soon(lambda: getattr(orchestrator._application, "http", None) and orchestrator.wait)
        async with http_client(orchestrator) as client:
            assert (await client.get("/health/live")).status_code == 200
            for path in ("/health/ready", "/v1/models"):
                answer = await client.get(path)
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert f"waiting for the target at 127.0.0.1:{port}" in answer.json()["error"]["message"]
            async with target_server(pair.target, port=port):
                await asyncio.wait_for(starting, PATIENCE_S)
                assert (await client.get("/health/ready")).json() == {"status": "ok"}
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await orchestrator.stop(0)


async def test_a_target_that_is_lost_makes_it_not_ready(pair: Pair) -> None:
    async with target_server(pair.target) as target:
        server: FrameServer = orchestrator_server(target.address, http="127.0.0.1:0", target_patience_s=0.01)
        async with server as orchestrator, http_client(orchestrator) as client:
            await target.stop()
            async with asyncio.timeout(PATIENCE_S):
                while (await client.get("/health/ready")).status_code == 200:
                    await asyncio.sleep(0.005)
            answer = await client.post("/v1/completions", json={"prompt": "a"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "target_unavailable")
            assert (await client.get("/health/live")).status_code == 200
