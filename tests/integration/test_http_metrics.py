"""Prometheus' page of a real orchestrator, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.frame.server import FrameServer
from services.frame.telemetry import configure_telemetry
from tests.integration.conftest import Pair
from tests.integration.services import (
    OFF,
    Client,
    Gate,
    client_of,
    draft_server,
    fixed,
    orchestrator_server,
    target_server,
)
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.integration


@dataclass
class Measured:
    """An orchestrator with a page, before a target with one slot behind a gate."""

    client: Client
    http: httpx2.AsyncClient
    target: FrameServer
    gate: Gate

    async def values(self) -> dict[str, float]:
        """What the page tells, by name, positions after that; sums over other labels."""
        answer = await self.http.get("/metrics")
        assert answer.status_code == 200
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                name = " ".join([sample.name, *(sample.labels[key] for key in ("position",) if key in sample.labels)])
                found[name] = found.get(name, 0) + sample.value
        return found

    async def load(self) -> tuple[float, float, float | None]:
        """Requests that are generated for, that wait, and the share of the cache that is used."""
        values = await self.values()
        usage = values.get("vllm:kv_cache_usage_perc")
        return values["vllm:num_requests_running"], values["vllm:num_requests_waiting"], usage


@pytest.fixture
async def measured(pair: Pair) -> AsyncIterator[Measured]:
    gate = Gate()
    async with AsyncExitStack() as stack:
        telemetry = configure_telemetry("outrider-orchestrator", has_page=True)
        stack.callback(telemetry.shutdown)
        target = await stack.enter_async_context(target_server(pair.target, gate, slots=1))
        draft = await stack.enter_async_context(draft_server(pair.draft))
        server = orchestrator_server(target.address, draft.address, telemetry, http="127.0.0.1:0")
        server = await stack.enter_async_context(server)
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        url = server._application.http.url  # type: ignore[attr-defined]
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S))
        yield Measured(client, http, target, gate)


async def test_what_speculation_did_is_told_by_both_names(measured: Measured) -> None:
    first = await measured.client.generate(max_tokens=24, speculation=fixed(3))
    second = await measured.client.generate(max_tokens=8, speculation=OFF)
    values = await measured.values()
    counts = first.counts
    assert values["vllm:spec_decode_num_drafts_total"] == values["outrider_drafts_total"] == counts.num_drafts > 0
    assert values["vllm:spec_decode_num_draft_tokens_total"] == counts.num_draft_tokens
    assert values["vllm:spec_decode_num_accepted_tokens_total"] == counts.num_accepted_tokens > 0
    positions = [values[f"vllm:spec_decode_num_accepted_tokens_per_pos_total {index}"] for index in range(3)]
    assert positions == [*counts.num_accepted_per_position, 0, 0, 0][:3]
    assert values["vllm:generation_tokens_total"] == values["outrider_generated_tokens_total"] == 32
    prompts = [each.summary.usage.num_prompt_tokens for each in (first, second)]
    assert values["vllm:prompt_tokens_total"] == sum(prompts)
    assert values["vllm:time_to_first_token_seconds_count"] == 2
    chunks = [len(each.chunks) for each in (first, second)]
    assert values["vllm:inter_token_latency_seconds_count"] == sum(chunks) - 2


async def test_who_waits_for_a_slot_is_told_from_who_has_one(measured: Measured) -> None:
    assert await measured.load() == (0, 0, 0)
    measured.gate.hold_after(1)
    one = asyncio.create_task(measured.client.generate(max_tokens=8, speculation=OFF))
    await measured.gate.reached()
    running, waiting, usage = await measured.load()
    assert (running, waiting) == (1, 0)
    assert usage is not None
    assert 0 < usage < 0.1
    other = asyncio.create_task(measured.client.generate(max_tokens=8, speculation=OFF))
    async with asyncio.timeout(PATIENCE_S):
        while (await measured.load())[:2] != (1, 1):
            pass
    measured.gate.open()
    await asyncio.gather(one, other)
    async with asyncio.timeout(PATIENCE_S):
        # The sessions are released when all has been answered.
        while await measured.load() != (0, 0, 0):
            pass


async def test_without_a_target_all_wait_for_it(measured: Measured) -> None:
    await measured.target.stop(0)
    async with asyncio.timeout(PATIENCE_S):
        while (await measured.client.status()).target.is_available:
            pass
    asked = asyncio.create_task(measured.client.generate(max_tokens=8))
    async with asyncio.timeout(PATIENCE_S):
        while await measured.load() != (0, 1, None):
            pass
    asked.cancel()
