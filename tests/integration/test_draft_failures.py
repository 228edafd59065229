"""Drafts that are away, go away, come late or come back: the text is the same."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from models.tiny import write_tiny_model
from orchestrator.drafting import patience
from services.frame.rpc.errors import error_from_rpc
from tests.integration.conftest import Pair, System
from tests.integration.orchestrated import SAMPLED, orchestrated
from tests.integration.services import OFF, Gate, draft_server, fixed, target_server
from tests.ports import free_port
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("asked", [{}, SAMPLED], ids=["greedy", "sampled"])
async def test_without_a_draft_decoding_is_plain(pair: Pair, asked: dict[str, Any]) -> None:
    async with target_server(pair.target) as target:
        async with orchestrated(target.address) as client:
            expected = await client.generate(**asked)
            assert not (await client.status()).HasField("draft")
        async with orchestrated(target.address, f"127.0.0.1:{free_port()}") as client:
            generated = await client.generate(**asked)
            status = await client.status()
    assert generated.ids == expected.ids
    assert generated.counts.num_drafts == generated.counts.num_fallbacks == 0
    assert not status.draft.is_available
    assert status.draft.reason


@pytest.mark.parametrize("asked", [{}, SAMPLED], ids=["greedy", "sampled"])
async def test_a_draft_that_stops_in_the_middle_of_a_request(system: System, asked: dict[str, Any]) -> None:
    expected = await system.client.generate(**asked, speculation=OFF)
    # Two cycles or so with a draft, the rest without.
    system.draft_gate.hold_after(10)
    task = asyncio.create_task(system.client.generate(**asked, speculation=fixed(4)))
    await system.draft_gate.reached()
    stopping = asyncio.create_task(system.draft.stop(0))
    await system.client.until_draft(is_available=False)
    system.draft_gate.open()
    await stopping
    generated = await task
    assert generated.ids == expected.ids
    assert generated.counts.num_fallbacks == 1
    assert 0 < generated.counts.num_drafts < generated.counts.num_cycles - 1
    sizes = [len(chunk.tokens) for chunk in generated.chunks]
    assert max(sizes[:3]) > 1
    assert set(sizes[len(sizes) // 2 :]) == {1}, "from the loss of the draft on every chunk is a single token"
    after = await system.client.generate(**asked, speculation=fixed(4))
    assert after.ids == expected.ids
    assert after.counts.num_drafts == after.counts.num_fallbacks == 0


async def test_a_draft_that_is_late_is_not_waited_for(pair: Pair) -> None:
    gate = Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        draft = await stack.enter_async_context(draft_server(pair.draft, gate))
        client = await stack.enter_async_context(
            orchestrated(target.address, draft.address, draft_timeout_s=0.05, draft_retry_s=60.0)
        )
        await client.until_draft(is_available=True)
        expected = await client.generate(speculation=OFF)
        gate.hold_after(0)
        generated = await client.generate(speculation=fixed(4))
        assert gate.is_holding, "the draft has not answered to this moment"
        gate.open()
    assert generated.ids == expected.ids
    assert generated.counts.num_drafts == 0


async def test_a_draft_that_hangs_is_not_waited_for_as_long_as_it_might_be(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its drafts have been quick, and so are the target's cycles."""
    monkeypatch.setattr(patience, "LEAST_S", 0.5)
    gate = Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        draft = await stack.enter_async_context(draft_server(pair.draft, gate))
        settings = {"draft_timeout_s": PATIENCE_S, "draft_retry_s": 60.0}
        client = await stack.enter_async_context(orchestrated(target.address, draft.address, **settings))
        await client.until_draft(is_available=True)
        expected = await client.generate(speculation=fixed(4))
        gate.hold_after(10)
        generated = await client.generate(speculation=fixed(4))
        assert gate.is_holding, "the draft has not answered to this moment"
        assert generated.ids == expected.ids
        assert 0 < generated.counts.num_drafts < expected.counts.num_drafts
        assert generated.counts.num_fallbacks == 1
        assert (await client.status()).draft.reason.startswith("no draft within ")
        gate.open()


@pytest.mark.parametrize("asked", [{}, SAMPLED], ids=["greedy", "sampled"])
async def test_a_draft_that_comes_in_the_middle_of_a_request(pair: Pair, asked: dict[str, Any]) -> None:
    port, gate = free_port(), Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, gate))
        client = await stack.enter_async_context(orchestrated(target.address, f"127.0.0.1:{port}"))
        expected = await client.generate(**asked, speculation=OFF)
        gate.hold_after(5)
        task = asyncio.create_task(client.generate(**asked, speculation=fixed(4)))
        await gate.reached()
        await stack.enter_async_context(draft_server(pair.draft, port=port))
        await client.until_draft(is_available=True)
        gate.open()
        generated = await task
    assert generated.ids == expected.ids
    assert [len(chunk.tokens) for chunk in generated.chunks[:5]] == [1] * 5
    assert 0 < generated.counts.num_drafts < generated.counts.num_cycles
    assert generated.counts.num_accepted_tokens > 0
    assert generated.counts.num_fallbacks == 0


async def test_a_draft_that_comes_back_is_used_again(pair: Pair) -> None:
    port = free_port()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        client = await stack.enter_async_context(orchestrated(target.address, f"127.0.0.1:{port}"))
        expected = await client.generate(speculation=OFF)
        for _ in range(2):
            async with draft_server(pair.draft, port=port):
                await client.until_draft(is_available=True)
                generated = await client.generate(speculation=fixed(4))
                assert generated.ids == expected.ids
                assert generated.counts.num_accepted_tokens > 0
            await client.until_draft(is_available=False)
            assert (await client.generate(speculation=fixed(4))).counts.num_drafts == 0


async def test_a_draft_that_does_not_fit_is_not_used(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = write_tiny_model(tmp_path_factory.mktemp("other") / "draft.gguf", vocab_size=300, num_layers=1)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        draft = await stack.enter_async_context(draft_server(other))
        client = await stack.enter_async_context(orchestrated(target.address, draft.address))
        expected = await client.generate(speculation=OFF)
        async with asyncio.timeout(30):
            while "does not fit the target: token " not in (status := await client.status()).draft.reason:
                await asyncio.sleep(0.005)
        generated = await client.generate(speculation=fixed(4))
    assert not status.draft.is_available
    assert generated.ids == expected.ids
    assert generated.counts.num_drafts == 0


async def test_a_bad_request_does_not_cost_others_their_draft(system: System) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await system.client.generate(temperature=-1.0, speculation=fixed(4))
    assert error_from_rpc(info.value).reason == "INVALID_SAMPLING"
    generated = await system.client.generate(speculation=fixed(4))
    assert generated.counts.num_drafts > 0
    assert generated.counts.num_cycles - generated.counts.num_drafts <= 1
    assert generated.counts.num_fallbacks == 0
