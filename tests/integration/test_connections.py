"""Connections that a middlebox drops, with a word or without: a request goes on, and nothing is taken for an outage."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from orchestrator import watch
from services.frame import channel, server
from services.frame.health import HealthService
from tests.integration.conftest import Pair
from tests.integration.services import (
    Client,
    Gate,
    client_of,
    draft_server,
    fixed,
    orchestrator_server,
    target_server,
)
from tests.proxy import proxying
from tests.relay import Relay, relaying, scaled
from tests.waiting import soon

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
