"""Who drafts: the draft service, lookup, nobody, and who takes over from whom. The text is the same."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_trace_id

from outrider.v1 import generation_pb2
from services.frame.rpc.errors import error_from_rpc
from services.frame.server import FrameServer
from services.frame.telemetry import Telemetry
from services.frame.telemetry.recording import Recorder
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
from tests.waiting import soon

pytestmark = pytest.mark.integration

DRAFTER_AUTO = generation_pb2.DRAFTER_AUTO
REMOTE, NGRAM, NONE = generation_pb2.DRAFTER_REMOTE, generation_pb2.DRAFTER_NGRAM, generation_pb2.DRAFTER_NONE
FIXED = generation_pb2.SPECULATION_MODE_FIXED
# The model takes it up where it ends.
PROMPT = "def add(a, b):\n    return a + b\n\n\n" * 2 + "def add(a"
ASKED: list[dict[str, Any]] = [{"max_tokens": 64}, {"max_tokens": 64, "temperature": 0.1, "seed": 12}]
KINDS = ["greedy", "sampled"]


def by(drafter: int, **fields: Any) -> generation_pb2.Speculation:
    """Speculation by a drafter, with 4 draft tokens a cycle at most."""
    return generation_pb2.Speculation(**{"drafter": drafter, "mode": FIXED, "num_draft_tokens": 4, **fields})


def drafters(generated: Generated) -> set[int]:
    """Who drafted; checks that the sums are those of all."""
    counts = generated.counts
    for name in ("num_drafts", "num_draft_tokens", "num_accepted_tokens"):
        assert sum(getattr(each, name) for each in counts.drafters) == getattr(counts, name)
    return {each.drafter for each in counts.drafters}


@pytest.fixture
async def target(pair: Pair) -> AsyncIterator[FrameServer]:
    async with target_server(pair.target) as server:
        yield server


async def ask(target: FrameServer, draft: str = "", *, asked: dict[str, Any], **settings: Any) -> Generated:
    """The answer of an orchestrator of its own."""
    async with orchestrator_server(target.address, draft, **settings) as server, client_of(server) as client:
        if draft:
            await client.until_draft(is_available=True)
        return await client.generate(PROMPT, **asked)


@pytest.mark.parametrize("asked", ASKED, ids=KINDS)
async def test_lookup_changes_the_passes_and_never_the_text(system: System, asked: dict[str, Any]) -> None:
    expected = await system.client.generate(PROMPT, **asked, speculation=OFF)
    generated = await system.client.generate(PROMPT, **asked, speculation=by(NGRAM))
    assert (generated.ids, generated.text) == (expected.ids, expected.text)
    assert drafters(generated) == {NGRAM}
    assert generated.counts.num_accepted_tokens > 0
    assert generated.counts.num_cycles < expected.counts.num_cycles
    assert generated.summary.timings.draft_ms == 0
    assert generated.counts.num_fallbacks == 0


@pytest.mark.parametrize("asked", ASKED, ids=KINDS)
async def test_a_request_picks_its_drafter(system: System, asked: dict[str, Any]) -> None:
    plain = await system.client.generate(PROMPT, **asked, speculation=by(NONE))
    assert drafters(plain) == set()
    for drafter in (REMOTE, DRAFTER_AUTO):
        generated = await system.client.generate(PROMPT, **asked, speculation=by(drafter))
        assert generated.ids == plain.ids
        assert drafters(generated) == {REMOTE}
    assert (await system.client.status()).drafter == REMOTE


@pytest.mark.parametrize(
    ("setting", "expected", "with_a_draft"),
    [
        ("auto", {NGRAM}, {REMOTE}),
        ("remote", set(), {REMOTE}),
        ("ngram", {NGRAM}, {NGRAM}),
        ("none", set(), set()),
    ],
)
async def test_the_orchestrator_is_set_to_a_drafter(
    pair: Pair, target: FrameServer, setting: str, expected: set[int], with_a_draft: set[int]
) -> None:
    asked: dict[str, Any] = {"max_tokens": 32, "speculation": fixed(4)}
    assert drafters(await ask(target, asked=asked, drafter=setting)) == expected
    async with draft_server(pair.draft) as draft:
        assert drafters(await ask(target, draft.address, asked=asked, drafter=setting)) == with_a_draft


async def test_without_a_draft_service_lookup_is_what_there_is(target: FrameServer) -> None:
    async with orchestrator_server(target.address, drafter="auto") as server, client_of(server) as client:
        before = await client.status()
        generated = await client.generate(PROMPT)
        after = await client.status()
    assert not before.HasField("draft")
    assert before.drafter == NGRAM
    assert after.speculation == generated.counts
    assert drafters(generated) == {NGRAM}


@pytest.mark.parametrize("asked", ASKED, ids=KINDS)
async def test_lookup_takes_over_from_a_draft_that_goes_away(pair: Pair, asked: dict[str, Any]) -> None:
    """Every cycle of the trace says who drafted."""
    exporter = InMemorySpanExporter()
    telemetry = Telemetry(Recorder(Resource({}), [SimpleSpanProcessor(exporter)]))
    gate = Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        draft = await stack.enter_async_context(draft_server(pair.draft, gate))
        server = orchestrator_server(target.address, draft.address, telemetry, drafter="auto", draft_retry_s=60.0)
        client = await stack.enter_async_context(client_of(await stack.enter_async_context(server)))
        await client.until_draft(is_available=True)
        expected = await client.generate(PROMPT, **asked, speculation=OFF)
        gate.hold_after(6)
        task = asyncio.create_task(client.generate(PROMPT, **asked, speculation=by(DRAFTER_AUTO)))
        await gate.reached()
        stopping = asyncio.create_task(draft.stop(0))
        await client.until_draft(is_available=False)
        gate.open()
        await stopping
        generated = await task
        assert (await client.status()).drafter == NGRAM

        def cycle_spans() -> list[dict[str, Any]]:
            spans = (span for span in exporter.get_finished_spans() if span.name == "cycle")
            return [
                dict(span.attributes or {})
                for span in spans
                if span.context and format_trace_id(span.context.trace_id) == generated.summary.trace_id
            ]

        # Spans are exported after the answer, by another thread.
        await soon(lambda: len(cycle_spans()) == generated.counts.num_cycles)
    assert generated.ids == expected.ids
    assert drafters(generated) == {REMOTE, NGRAM}
    assert generated.counts.num_fallbacks == 1
    cycles = sorted(cycle_spans(), key=lambda cycle: cycle["outrider.cycle.index"])
    told = [cycle["outrider.cycle.drafter"] for cycle in cycles]
    lost_at = max(index for index, name in enumerate(told) if name == "remote")
    assert set(told[: lost_at + 1]) == {"remote"}
    assert set(told[lost_at + 1 :]) == {"ngram", "none"}
    for each in generated.counts.drafters:
        name = {REMOTE: "remote", NGRAM: "ngram"}[each.drafter]
        of_it = [cycle for cycle in cycles if cycle["outrider.cycle.drafter"] == name]
        assert sum(int(str(cycle["outrider.cycle.num_draft_tokens"])) for cycle in of_it) == each.num_draft_tokens


async def test_a_draft_that_proposes_less_is_asked_for_less(
    pair: Pair, target: FrameServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "orchestrator")
    async with AsyncExitStack() as stack:
        draft = await stack.enter_async_context(draft_server(pair.draft, max_draft_tokens=2))
        server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        generated = await client.generate(speculation=fixed(6))
        told = (await client.status()).draft.model.max_draft_tokens
    assert told == 2
    assert [record for record in caplog.messages if record.endswith("at most 2 draft tokens a cycle")] != []
    assert len(generated.counts.num_accepted_per_position) == 2
    assert generated.counts.num_drafts > 10
    assert generated.counts.num_draft_tokens <= 2 * generated.counts.num_drafts
    assert generated.counts.num_fallbacks == 0


async def test_no_draft_is_longer_than_the_target_takes(pair: Pair) -> None:
    async with target_server(pair.target, max_draft_tokens=2) as target:
        generated = await ask(target, asked={"max_tokens": 32}, drafter="ngram", max_draft_tokens=8)
    assert generated.counts.num_draft_tokens + generated.counts.num_skipped_tokens > 0
    assert len(generated.counts.num_accepted_per_position) <= 2


@pytest.mark.parametrize("asked", ASKED, ids=KINDS)
async def test_a_draft_ends_where_the_service_is_not_sure(system: System, asked: dict[str, Any]) -> None:
    answers = [
        await system.client.generate(PROMPT, **asked, speculation=by(REMOTE, min_joint_confidence=confidence))
        for confidence in (0.0, 0.05, 1.0)
    ]
    assert len({tuple(answer.ids) for answer in answers}) == 1
    sure, careful, never = (answer.counts for answer in answers)
    assert sure.num_draft_tokens > careful.num_draft_tokens > never.num_draft_tokens == 0
    assert {answer.counts.num_fallbacks for answer in answers} == {0}
    rates = [counts.num_accepted_tokens / counts.num_draft_tokens for counts in (sure, careful)]
    assert rates[0] < rates[1]


async def test_the_orchestrator_is_set_to_be_careful(pair: Pair, target: FrameServer) -> None:
    async with draft_server(pair.draft) as draft:
        careful: dict[str, Any] = {"min_joint_confidence": 1.0}
        assert drafters(await ask(target, draft.address, asked={}, **careful)) == set()
        bold = {"speculation": by(REMOTE, min_joint_confidence=0.0)}
        assert drafters(await ask(target, draft.address, asked=bold, **careful)) == {REMOTE}


@pytest.mark.parametrize(
    "speculation",
    [
        generation_pb2.Speculation(drafter=17),  # type: ignore[arg-type]
        generation_pb2.Speculation(min_joint_confidence=float("nan")),
    ],
)
async def test_what_cannot_be_asked(system: System, speculation: generation_pb2.Speculation) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await system.client.generate(speculation=speculation)
    error = error_from_rpc(info.value)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_requests_look_up_in_their_own_text_alone(target: FrameServer) -> None:
    """Many at once, each with the text that it has alone."""

    async def texts(client: Client, together: bool) -> list[str]:
        prompts = [f"x{number} = [{number}, {number}]\n" * 4 for number in range(6)]
        asking = [client.generate(prompt, max_tokens=24, speculation=by(NGRAM)) for prompt in prompts]
        answers = await asyncio.gather(*asking) if together else [await each for each in asking]
        return [answer.text for answer in answers]

    async with orchestrator_server(target.address) as server, client_of(server) as client:
        assert await texts(client, together=True) == await texts(client, together=False)
