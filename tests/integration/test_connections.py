"""Connections that a middlebox drops, with a word or without: a request goes on, and nothing is taken for an outage."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from orchestrator.peers import watch
from outrider.v1 import generation_pb2
from services.frame import server
from services.frame.rpc import channel
from services.frame.rpc.errors import error_from_rpc
from services.frame.rpc.health import HealthService
from tests.integration.conftest import Pair
from tests.integration.services import (
    Client,
    Gate,
    client_of,
    draft_server,
    fixed,
    generate_request,
    orchestrator_server,
    target_server,
    until_idle,
)
from tests.proxy import proxying
from tests.relay import Relay, relaying, scaled
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration


@asynccontextmanager
async def relayed(pair: Pair, gate: Gate | None = None, **settings: Any) -> AsyncIterator[tuple[Client, Relay, Relay]]:
    """A client of an orchestrator that reaches target and draft through relays; decodes of the target pass the gate."""
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, gate))
        draft = await stack.enter_async_context(draft_server(pair.draft))
        relays = [await stack.enter_async_context(relaying(each.address)) for each in (target, draft)]
        orchestrator = orchestrator_server(relays[0].address, relays[1].address, **settings)
        client = await stack.enter_async_context(client_of(await stack.enter_async_context(orchestrator)))
        await client.until_draft(is_available=True)
        yield client, relays[0], relays[1]


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keepalive, shortened on both sides."""
    monkeypatch.setattr(server, "KEEPALIVE_OPTIONS", scaled(server.KEEPALIVE_OPTIONS))
    monkeypatch.setattr(channel, "KEEPALIVE_OPTIONS", scaled(channel.KEEPALIVE_OPTIONS))


@pytest.mark.usefixtures("_impatient")
async def test_a_request_goes_on_when_its_connection_falls_silent(pair: Pair) -> None:
    """To find that out takes longer than a target that is away is waited for."""
    gate = Gate()
    async with relayed(pair, gate, target_patience_s=0.2) as (client, relay, _):
        expected = await client.generate(speculation=fixed(4))
        gate.hold_after(6)
        task = asyncio.create_task(client.generate(speculation=fixed(4)))
        await gate.reached()
        num_connections = relay.num_connections
        relay.fall_silent()
        gate.open()
        generated = await task
        assert generated.ids == expected.ids
        assert generated.counts.num_resyncs == 1
        assert relay.num_connections == num_connections + 1


@pytest.mark.parametrize("service", ["outrider.v1.TargetService", "outrider.v1.DraftService"])
async def test_a_watch_that_is_cut_is_no_outage(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, service: str
) -> None:
    """As proxies cut whatever stream has been silent for a minute."""
    monkeypatch.setattr(watch, "_PAUSE_S", 0.0)
    caplog.set_level(logging.INFO, "orchestrator")
    watched: list[str] = []
    told = HealthService.Watch

    async def counted(health: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        watched.append(request.service)
        async for response in told(health, request, context):
            yield response

    monkeypatch.setattr(HealthService, "Watch", counted)
    async with relayed(pair) as (client, *relays):
        await soon(lambda: len(watched) == 2)
        caplog.clear()
        relays["Draft" in service].cut()
        await soon(lambda: watched[2:] == [service])
        status = await client.status()
        assert status.target.is_available and status.draft.is_available
        assert [each for each in caplog.messages if "away" in each or "without" in each or "draft " in each] == []


async def test_services_are_called_through_the_proxy_that_a_setting_names(pair: Pair) -> None:
    with proxying() as proxy:
        async with AsyncExitStack() as stack:
            target = await stack.enter_async_context(target_server(pair.target))
            draft = await stack.enter_async_context(draft_server(pair.draft))
            orchestrator = orchestrator_server(target.address, draft.address, peer_proxy=proxy.url)
            client = await stack.enter_async_context(client_of(await stack.enter_async_context(orchestrator)))
            await client.until_draft(is_available=True)
            assert (await client.generate(speculation=fixed(4))).counts.num_accepted_tokens > 0
        assert set(proxy.requests) == {f"CONNECT {server.address} HTTP/1.1" for server in (target, draft)}


async def test_a_generation_that_nobody_reads_gives_its_place_up(pair: Pair) -> None:
    unread = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, context=1024))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address, unread_timeout_s=0.2))
        client = await stack.enter_async_context(client_of(orchestrator))
        opened = await stack.enter_async_context(grpc.aio.insecure_channel(orchestrator.address, options=unread))
        call = Client(opened).stub.Generate(generate_request(max_tokens=1000, num_log_probabilities=20))
        assert isinstance(await call.read(), generation_pb2.GenerateResponse)
        # It is under way until it has made more than is read.
        async with asyncio.timeout(PATIENCE_S):
            while (await client.status()).num_active:
                await asyncio.sleep(0.005)
        await until_idle(target)
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            while await call.read() is not grpc.aio.EOF:
                pass
        error = error_from_rpc(ended.value)
        assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "UNREAD")


@asynccontextmanager
async def stopped(process: "subprocess.Popen[str]") -> AsyncIterator[None]:
    """A process of ours that is stopped, and goes on to its end afterwards."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.mark.usefixtures("_impatient")
async def test_a_client_that_is_stopped_gives_its_place_up(pair: Pair) -> None:
    gate = Gate()
    client_program = str(Path(__file__).parents[2] / "examples" / "python" / "generate.py")
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, gate, slots=1))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address))
        client = await stack.enter_async_context(client_of(orchestrator))
        gate.hold_after(2)
        with running(client_program, "--address", orchestrator.address, "def main(") as process:
            await gate.reached()
            async with stopped(process):
                async with asyncio.timeout(PATIENCE_S):
                    while (await client.status()).num_active:
                        await asyncio.sleep(0.005)
                gate.open()
                await until_idle(target)
                assert (await client.generate(max_tokens=4)).tokens


@pytest.mark.usefixtures("_impatient")
async def test_a_target_that_is_stopped_is_given_up(pair: Pair) -> None:
    flags = ("--model", str(pair.target), "--port", "0", "--exact", "off", "--context", "1024", "--threads", "1")
    with running("-m", "services.target", *flags) as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        address = line.removeprefix("listening on ").strip()
        async with (
            orchestrator_server(address, target_patience_s=0.5) as orchestrator,
            client_of(orchestrator) as client,
        ):
            call = client.stub.Generate(generate_request(max_tokens=1000))
            assert isinstance(await call.read(), generation_pb2.GenerateResponse)
            async with stopped(process):
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    while await call.read() is not grpc.aio.EOF:
                        pass
                assert error_from_rpc(ended.value).reason == "TARGET_UNAVAILABLE"


@contextmanager
def running(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A Python program."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        # An example finds what lies beside it.
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        assert process.stdout is not None
        process.stdout.close()
