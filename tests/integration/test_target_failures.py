"""Targets that go away, stay away, come back or are replaced: the text is the same, or an error says why not."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from models.tiny import write_tiny_model
from outrider.v1 import generation_pb2
from services.frame.rpc.errors import ServiceError, error_from_rpc
from tests.integration.conftest import Pair
from tests.integration.orchestrated import SAMPLED, orchestrated
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

pytestmark = pytest.mark.integration


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
