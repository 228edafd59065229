"""The bundled pair, and a whole system on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from orchestrator.drafting import patience
from services.frame.server import FrameServer
from tests.environment import hide_settings
from tests.integration.asking import Service, asking
from tests.integration.pairs import write_pair_as_f32
from tests.integration.services import (
    Client,
    Gate,
    client_of,
    draft_server,
    orchestrator_server,
    target_server,
    until_idle,
)
from tests.integration.source_package import models_folder
from tests.waiting import PATIENCE_S

VOCABULARY = 4096
"""Tokens of the bundled pair."""


@dataclass(frozen=True)
class Pair:
    """Model files of a pair."""

    target: Path
    draft: Path


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with vocabularies and templates of llama-cpp-python's source package."""
    return models_folder(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(*write_pair_as_f32(tmp_path_factory.mktemp("pair")))


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the services remember of models away from the developer's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _patient_with_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No draft is late because the machine is busy: what is drafted does not depend on time."""
    monkeypatch.setattr(patience, "LEAST_S", PATIENCE_S)


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


@asynccontextmanager
async def _running(pair: Pair) -> AsyncIterator[System]:
    gates = Gate(), Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, gates[0]))
        draft = await stack.enter_async_context(draft_server(pair.draft, gates[1]))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(orchestrator))
        await client.until_draft(is_available=True)
        yield System(target, draft, orchestrator, client, *gates)


@pytest.fixture
async def system(pair: Pair) -> AsyncIterator[System]:
    """A target, a draft that has been found, and an orchestrator."""
    async with _running(pair) as system:
        yield system
        await system.until_idle()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _lasting_system(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        hide_settings(monkeypatch)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        async with _running(pair) as system:
            yield system


@pytest_asyncio.fixture(loop_scope="module")
async def shared_system(_lasting_system: System) -> AsyncIterator[System]:
    """The system of all tests of a module, which run in one event loop. Each leaves it as it was."""
    yield _lasting_system
    await _lasting_system.until_idle()


@pytest_asyncio.fixture(loop_scope="module", params=["target", "draft"])
async def service(request: pytest.FixtureRequest, shared_system: System) -> AsyncIterator[Service]:
    """One of the two services of the shared system."""
    async with asking(request.param, getattr(shared_system, request.param)) as service:
        yield service
