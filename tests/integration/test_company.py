"""Many generations at once on few slots."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.engine.scheduling.engine import Engine
from services.engine.scheduling.scheduler import Decode
from services.frame.server import FrameServer
from tests.integration.conftest import Pair
from tests.integration.services import OFF, client_of, draft_server, fixed, orchestrator_server, target_server

NUM_GENERATIONS = 10


def _engine(server: FrameServer) -> Engine:
    engine: Engine = server._application.engine  # type: ignore[attr-defined]
    return engine


@pytest.fixture
async def target(pair: Pair) -> AsyncIterator[FrameServer]:
    async with target_server(pair.target) as server:
        yield server


async def test_a_generation_keeps_its_slot_and_others_queue(pair: Pair, target: FrameServer) -> None:
    """Otherwise each cycle would replay what the one before it evicted."""
    async with (
        draft_server(pair.draft) as draft,
        orchestrator_server(target.address, draft.address) as server,
        client_of(server) as client,
    ):
        await client.until_draft(is_available=True)
        prompts = [f"def f{number}(" for number in range(NUM_GENERATIONS)]
        alone = [await client.generate(prompt, max_tokens=24, speculation=OFF) for prompt in prompts]
        num_evictions = _engine(target).num_evictions
        asking = (client.generate(prompt, max_tokens=24, speculation=fixed(3)) for prompt in prompts)
        together = await asyncio.gather(*asking)
        assert [each.ids for each in together] == [each.ids for each in alone]
        # All but the first ones take the place of one that has ended.
        assert _engine(target).num_evictions - num_evictions <= 2 * NUM_GENERATIONS
        # Until it is known that sessions come back, a slot is taken that should not be.
        assert sum(each.counts.num_resyncs for each in together) <= 2 * NUM_GENERATIONS
        assert (await client.status()).draft.is_available


async def test_sessions_meet_in_one_decode(target: FrameServer) -> None:
    decodes: list[Decode] = []
    _engine(target).observe(decodes.append)
    async with orchestrator_server(target.address) as server, client_of(server) as client:
        asking = (client.generate(f"x{number} = ", max_tokens=64, speculation=OFF) for number in range(4))
        answers = await asyncio.gather(*asking)
    num_rows = sum(answer.summary.usage.num_generated_tokens for answer in answers)
    shared = [decode for decode in decodes if len(decode.sessions) > 1]
    assert sum(decode.num_rows for decode in shared) > 0.8 * num_rows
