"""The draft model by itself: what it says is what a target with the same file says, plainly decoded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
import pytest_asyncio

from outrider.v1 import common_pb2, generation_pb2
from services.frame.rpc.errors import ServiceError, error_from_rpc
from tests.integration.conftest import Pair, System
from tests.integration.orchestrated import orchestrated
from tests.integration.services import OFF, Client, Gate, draft_server, fixed, generate_request, target_server
from tests.waiting import soon

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def expecting(pair: Pair) -> AsyncIterator[Client]:
    """A client of an orchestrator whose target has the draft's file."""
    async with (
        target_server(pair.draft) as target,
        orchestrated(target.address) as client,
    ):
        yield client


async def refusal(client: Client, **fields: Any) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        async for _ in client.stub.Generate(generate_request(**fields)):
            pass
    return error_from_rpc(info.value)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({}, id="greedy"),
        pytest.param({"temperature": 0.8}, id="sampled"),
        pytest.param(
            {"sampling": common_pb2.Sampling(temperature=0.9, top_k=20, repetition_penalty=1.2)}, id="penalties"
        ),
        pytest.param({"max_tokens": 1}, id="one token"),
        pytest.param({"max_tokens": 1000}, id="a full context"),
        pytest.param({"stop": ["self"], "temperature": 0.8}, id="a stop string"),
    ],
)
async def test_its_text_is_that_of_its_file(shared_system: System, expecting: Client, asked: dict[str, Any]) -> None:
    expected = await expecting.generate(**asked)
    generated = await shared_system.client.generate(model="draft", **asked)
    assert (generated.ids, generated.text) == (expected.ids, expected.text)
    assert generated.summary.finish_reason == expected.summary.finish_reason
    assert generated.summary.usage.num_generated_tokens == expected.summary.usage.num_generated_tokens


async def test_what_is_told_of_it(shared_system: System) -> None:
    generated = await shared_system.client.generate(model="draft", report_cycles=True)
    counts = generated.counts
    assert counts.num_cycles == len(generated.ids) == 48
    assert counts.num_drafts == counts.num_draft_tokens == counts.num_accepted_tokens == 0
    assert not counts.drafters
    assert {token.origin for token in generated.tokens} == {generation_pb2.TOKEN_ORIGIN_BONUS}
    assert not generated.summary.exact
    assert generated.summary.draft_problem == ""
    assert generated.summary.timings.target_ms > 0
    assert {chunk.cycle.drafter for chunk in generated.chunks} == {generation_pb2.DRAFTER_NONE}
    again = await shared_system.client.generate(model="draft")
    assert again.summary.usage.num_cached_prompt_tokens == again.summary.usage.num_prompt_tokens - 1


async def test_models_by_their_names(shared_system: System) -> None:
    client = shared_system.client
    target, draft = await client.generate(), await client.generate(model="draft")
    assert target.ids != draft.ids
    for name, expected in (
        ("target", target),
        ("outrider-target", target),
        ("draft", draft),
        ("outrider-draft", draft),
    ):
        assert (await client.generate(model=name)).ids == expected.ids


async def test_a_name_that_nobody_has(shared_system: System, expecting: Client) -> None:
    error = await refusal(shared_system.client, model="gpt-4")
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")
    assert "'gpt-4'" in error.message
    assert "'target', 'draft', 'outrider-target', 'outrider-draft'" in error.message
    without = await refusal(expecting, model="draft")
    assert (without.code, without.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")
    assert "'target', 'outrider-draft'," in without.message
    long = await refusal(shared_system.client, model="x" * 100_000)
    assert long.reason == "MODEL_UNKNOWN"
    assert len(long.message) < 300


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (dict(num_log_probabilities=0), "num_log_probabilities"),
        (dict(num_prompt_log_probabilities=0), "num_prompt_log_probabilities"),
        (dict(speculation=fixed(3)), "speculation.mode"),
        (dict(speculation=generation_pb2.Speculation(drafter=generation_pb2.DRAFTER_NGRAM)), "speculation.drafter"),
    ],
)
async def test_what_it_cannot_do_is_refused_by_name(shared_system: System, asked: dict[str, Any], field: str) -> None:
    error = await refusal(shared_system.client, model="draft", **asked)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert [violation.field for violation in error.field_violations] == [field]


async def test_it_needs_not_be_told_that_nobody_drafts(shared_system: System) -> None:
    expected = await shared_system.client.generate(model="draft")
    assert (await shared_system.client.generate(model="draft", speculation=OFF)).ids == expected.ids
    error = await refusal(shared_system.client, model="draft", require_exact=True)
    assert error.reason == "EXACT_UNAVAILABLE"


async def test_many_at_once(shared_system: System) -> None:
    """More than slots, beside requests that have it draft."""
    client = shared_system.client
    alone = [await client.generate(model="draft", temperature=0.8, seed=seed) for seed in range(6)]
    plain = await client.generate(temperature=0.8)
    *together, drafted = await asyncio.gather(
        *(client.generate(model="draft", temperature=0.8, seed=seed) for seed in range(6)),
        client.generate(temperature=0.8, speculation=fixed(3)),
    )
    assert [each.ids for each in together] == [each.ids for each in alone]
    assert drafted.ids == plain.ids


async def test_one_that_is_away(pair: Pair) -> None:
    """It is refused at once where it was away before, and waited for where it goes away in mid-text."""
    gate = Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        draft = draft_server(pair.draft, gate)
        await draft.start()
        port = int(draft.address.rpartition(":")[2])
        client = await stack.enter_async_context(orchestrated(target.address, draft.address))
        await client.until_draft(is_available=True)
        expected = await client.generate(model="draft", temperature=0.8)
        gate.hold_after(20)
        task = asyncio.create_task(client.generate(model="draft", temperature=0.8))
        await gate.reached()
        stopping = asyncio.create_task(draft.stop(0))
        await client.until_draft(is_available=False)
        gate.open()
        await stopping
        error = await refusal(client, model="draft")
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE")
        assert error.retry_after_s
        await stack.enter_async_context(draft_server(pair.draft, port=port))
        generated = await task
    assert generated.ids == expected.ids
    assert generated.counts.num_resyncs == 1


async def test_a_client_that_goes_away_frees_it(shared_system: System) -> None:
    shared_system.draft_gate.hold_after(5)
    task = asyncio.create_task(shared_system.client.generate(model="draft", max_tokens=200))
    await shared_system.draft_gate.reached()
    task.cancel()
    await asyncio.wait({task})
    shared_system.draft_gate.open()
    engine = shared_system.draft._application.engine  # type: ignore[attr-defined]
    await soon(lambda: engine.num_unanswered == 0)
