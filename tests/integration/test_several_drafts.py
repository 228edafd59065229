"""Several draft services: the text is the same whoever drafts, and one that does not fit is named and not used."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from models.tiny import write_tiny_model
from services.frame.telemetry import Telemetry
from services.frame.telemetry.recording import Recorder
from tests.integration.conftest import Pair
from tests.integration.orchestrated import orchestrated
from tests.integration.services import AUTO, OFF, Client, Gate, draft_server, fixed, target_server
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration


async def until_drafts(client: Client, *expected: bool) -> None:
    """Return once the orchestrator knows which of its drafts can be used."""
    async with asyncio.timeout(PATIENCE_S):
        while [draft.is_available for draft in (await client.status()).drafts] != list(expected):
            await asyncio.sleep(0.005)


async def test_one_that_does_not_fit_is_named_and_not_used(
    pair: Pair, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = write_tiny_model(tmp_path_factory.mktemp("other") / "draft.gguf", vocab_size=300, num_layers=1)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        fits = await stack.enter_async_context(draft_server(pair.draft))
        stranger = await stack.enter_async_context(draft_server(other))
        addresses = f"{fits.address},{stranger.address}"
        client = await stack.enter_async_context(orchestrated(target.address, addresses))
        expected = await client.generate(speculation=OFF)
        async with asyncio.timeout(PATIENCE_S):
            while "does not fit the target: token " not in (status := await client.status()).drafts[1].reason:
                await asyncio.sleep(0.005)
        await until_drafts(client, True, False)
        generated = [await client.generate(speculation=speculation) for speculation in (AUTO, fixed(4))]
    assert [draft.address for draft in status.drafts] == [fits.address, stranger.address]
    assert status.draft.address == fits.address
    for each in generated:
        assert each.ids == expected.ids
        assert each.counts.num_accepted_tokens > 0
        assert each.summary.draft_problem == ""


async def test_another_one_takes_over_from_one_that_is_lost(pair: Pair) -> None:
    exporter, gate = InMemorySpanExporter(), Gate()
    telemetry = Telemetry(Recorder(Resource({}), [SimpleSpanProcessor(exporter)]))
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        first = await stack.enter_async_context(draft_server(pair.draft, gate))
        second = await stack.enter_async_context(draft_server(pair.draft))
        addresses = f"{first.address},{second.address}"
        client = await stack.enter_async_context(
            orchestrated(target.address, addresses, telemetry=telemetry, draft_retry_s=60.0)
        )
        await until_drafts(client, True, True)
        expected = await client.generate(speculation=OFF)
        gate.hold_after(10)
        task = asyncio.create_task(client.generate(speculation=fixed(4)))
        await gate.reached()
        stopping = asyncio.create_task(first.stop(0))
        await until_drafts(client, False, True)
        gate.open()
        await stopping
        generated = await task

        def asked() -> list[str]:
            spans = [span for span in exporter.get_finished_spans() if span.name == "propose"]
            in_order = sorted(spans, key=lambda span: span.start_time or 0)
            return [str((span.attributes or {})["outrider.draft.address"]) for span in in_order]

        # Spans are exported after the answer, by another thread.
        await soon(lambda: len(asked()) >= generated.counts.num_drafts)
    assert generated.ids == expected.ids
    assert generated.counts.num_fallbacks == 1
    assert generated.summary.draft_problem == ""
    assert asked() == sorted(asked(), key=[first.address, second.address].index)
    assert set(asked()) == {first.address, second.address}
