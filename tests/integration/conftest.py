"""The bundled pair, and a whole system on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.frame.server import FrameServer
from tests.integration.services import (
    Client,
    Gate,
    client_of,
    draft_server,
    orchestrator_server,
    target_server,
    until_idle,
)
from tests.pairs import write_pair_as_f32
from tests.waiting import PATIENCE_S

VOCABULARY = 4096
"""Tokens of the bundled pair."""


@dataclass(frozen=True)
class Pair:
    """Model files of a pair."""

    target: Path
    draft: Path


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(*write_pair_as_f32(tmp_path_factory.mktemp("pair")))


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the services remember of models away from the developer's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@dataclass
class System:
    """Three servers, and a client of the orchestrator."""

    target: FrameServer
    draft: FrameServer
    orchestrator: FrameServer
    client: Client
    target_gate: Gate
    draft_gate: Gate

    async def until_idle(self) -> None:
        """Return once nothing is left of any request, whatever became of its caller."""
        for server in (self.target, self.draft):
            await until_idle(server)
        async with asyncio.timeout(PATIENCE_S):
            while (await self.client.status()).num_active:
                await asyncio.sleep(0.005)


@pytest.fixture
async def system(pair: Pair) -> AsyncIterator[System]:
    """A target, a draft that has been found, and an orchestrator."""
    gates = Gate(), Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, gates[0]))
        draft = await stack.enter_async_context(draft_server(pair.draft, gates[1]))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(orchestrator))
        await client.until_draft(is_available=True)
        system = System(target, draft, orchestrator, client, *gates)
        yield system
        await system.until_idle()
