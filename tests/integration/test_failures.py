"""Services that are away, go away, come late or come back: the text is the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from models.tiny import write_tiny_model
from orchestrator.drafting import patience
from outrider.v1 import generation_pb2
from services.frame.rpc.errors import ServiceError, error_from_rpc
from tests.integration.conftest import Pair, System
from tests.integration.services import (
    OFF,
    Client,
    Gate,
    Generated,
    client_of,
    draft_server,
    fixed,
    orchestrator_server,
    target_server,
)
from tests.ports import free_port
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.integration

SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 1}


@asynccontextmanager
async def orchestrated(target: str, draft: str = "", **settings: Any) -> AsyncIterator[Client]:
    """A client of an orchestrator of its own."""
    async with orchestrator_server(target, draft, **settings) as server, client_of(server) as client:
        yield client


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
    monkeypatch.setattr(patience, "_LEAST_S", 0.5)
    gate = Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        draft = await stack.enter_async_context(draft_server(pair.draft, gate))
        settings = {"draft_timeout_s": 2 * PATIENCE_S, "draft_retry_s": 60.0}
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


@pytest.mark.parametrize("asked", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("speculation", [OFF, fixed(4)], ids=["plain", "drafted"])
async def test_a_target_that_is_restarted_in_the_middle_of_a_request(
    pair: Pair, asked: dict[str, Any], speculation: generation_pb2.Speculation
) -> None:
    port, gate = free_port(), Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, gate, port=port))
        draft = await stack.enter_async_context(draft_server(pair.draft))
        client = await stack.enter_async_context(orchestrated(target.address, draft.address))
        await client.until_draft(is_available=True)
        expected = await client.generate(**asked, speculation=speculation)
        gate.hold_after(6)
        task = asyncio.create_task(client.generate(**asked, speculation=speculation))
        await gate.reached()
        stopping = asyncio.create_task(target.stop(0))
        async with asyncio.timeout(30):
            while (await client.status()).target.is_available:
                await asyncio.sleep(0.005)
        gate.open()
        await stopping
        await stack.enter_async_context(target_server(pair.target, port=port))
        generated = await task
    assert generated.ids == expected.ids
    assert generated.text == expected.text
    assert generated.counts.num_resyncs == 1
    assert generated.counts.num_cycles == expected.counts.num_cycles


async def test_a_target_that_is_restarted_between_requests(pair: Pair) -> None:
    port = free_port()
    async with target_server(pair.target, port=port) as target:
        orchestrator = orchestrator_server(target.address)
        await orchestrator.start()
    try:
        async with target_server(pair.target, port=port), client_of(orchestrator) as client:
            generated = await client.generate()
            assert len(generated.tokens) == 48
            assert generated.counts.num_resyncs == 0
    finally:
        await orchestrator.stop(0)


async def test_a_target_that_stays_away_is_told(pair: Pair) -> None:
    port, gate = free_port(), Gate()
    async with AsyncExitStack() as stack:
        target = target_server(pair.target, gate, port=port)
        await target.start()
        client = await stack.enter_async_context(orchestrated(target.address, target_patience_s=0.2))
        gate.hold_after(3)
        task = asyncio.create_task(client.generate())
        await gate.reached()
        stopping = asyncio.create_task(target.stop(0))
        await asyncio.wait({task})
        gate.open()
        await stopping
        error = _error_of(task)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE")
        assert error.retry_after_s
        # Before a request has begun, the target is waited for as long.
        refused = asyncio.create_task(client.generate())
        await asyncio.wait({refused})
        error = _error_of(refused)
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE")
        assert error.retry_after_s
        # Both are told why: it said goodbye.
        assert error.message == "the target has been away for 0.2 s: it says that it does not serve"
        assert (await client.status()).target.reason == "the target service is away: it says that it does not serve"
        # It is served again as soon as the target is back.
        await stack.enter_async_context(target_server(pair.target, port=port))
        await _until_target(client, is_available=True)
        assert len((await client.generate(max_tokens=4)).tokens) == 4


async def _until_target(client: Client, *, is_available: bool) -> None:
    async with asyncio.timeout(30):
        while (await client.status()).target.is_available != is_available:
            await asyncio.sleep(0.005)


async def test_a_target_that_was_replaced_between_requests_is_asked_anew(
    pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = write_tiny_model(tmp_path_factory.mktemp("other") / "target.gguf", vocab_size=300, num_layers=1)
    port = free_port()
    async with AsyncExitStack() as stack:
        expected_of = await stack.enter_async_context(target_server(other))
        client = await stack.enter_async_context(orchestrated(expected_of.address))
        expected = await client.generate()
        draft = await stack.enter_async_context(draft_server(pair.draft))
        async with target_server(pair.target, port=port) as target:
            client = await stack.enter_async_context(orchestrated(target.address, draft.address))
            await client.until_draft(is_available=True)
            await client.generate()
        await _until_target(client, is_available=False)
        await stack.enter_async_context(target_server(other, port=port))
        generated = await client.generate()
        status = await client.status()
    assert generated.text == expected.text
    assert generated.ids == expected.ids
    assert not status.draft.is_available, "its tokens are not those of the new target"


def _error_of(task: "asyncio.Task[Generated]") -> ServiceError:
    error = task.exception()
    assert isinstance(error, grpc.aio.AioRpcError)
    return error_from_rpc(error)


async def test_a_target_with_another_tokenizer_ends_what_was_under_way(
    pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = write_tiny_model(tmp_path_factory.mktemp("other") / "target.gguf", vocab_size=300)
    port, gate = free_port(), Gate()
    async with AsyncExitStack() as stack:
        target = target_server(pair.target, gate, port=port)
        await target.start()
        client = await stack.enter_async_context(orchestrated(target.address))
        gate.hold_after(3)
        task = asyncio.create_task(client.generate())
        await gate.reached()
        stopping = asyncio.create_task(target.stop(0))
        await _until_target(client, is_available=False)
        gate.open()
        await stopping
        await stack.enter_async_context(target_server(other, port=port))
        await asyncio.wait({task})
    error = _error_of(task)
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "TARGET_REPLACED")


async def test_the_orchestrator_waits_for_its_target(pair: Pair) -> None:
    port = free_port()
    orchestrator = orchestrator_server(f"127.0.0.1:{port}")
    await orchestrator.listen()
    starting = asyncio.create_task(orchestrator.start())
    try:
        async with client_of(orchestrator) as client:
            with pytest.raises(grpc.aio.AioRpcError, match=f"waiting for the target at 127.0.0.1:{port}"):
                await client.status()
            async with target_server(pair.target, port=port):
                await starting
                assert len((await client.generate(max_tokens=4)).tokens) == 4
    finally:
        await orchestrator.stop(0)
