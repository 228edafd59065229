"""One trace for one request, across three services."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from services.frame.server import FrameServer
from services.frame.telemetry import Telemetry
from tests.integration.conftest import Pair
from tests.integration.services import (
    OFF,
    Client,
    Gate,
    client_of,
    draft_server,
    fixed,
    generate_request,
    orchestrator_server,
    target_server,
)
from tests.waiting import soon

pytestmark = pytest.mark.integration


@dataclass
class Traced:
    """Three services whose spans end up in one place."""

    client: Client
    draft: FrameServer
    target_gate: Gate
    draft_gate: Gate
    exporter: InMemorySpanExporter

    def spans(self, name: str) -> list[ReadableSpan]:
        """The finished spans of a name, in the order in which they began."""
        spans = [span for span in self.exporter.get_finished_spans() if span.name == name]
        return sorted(spans, key=lambda span: span.start_time or 0)

    async def finished(self, num_roots: int = 1) -> None:
        """Return once so many requests have ended for the services too."""
        await soon(lambda: len(self.spans("generate")) == num_roots)
        await soon(lambda: len(self.spans("verify")) == len(self.spans("target.verify")))


@pytest.fixture(params=["cycle"])
async def traced(pair: Pair, request: pytest.FixtureRequest) -> AsyncIterator[Traced]:
    detail = request.param
    exporter = InMemorySpanExporter()

    def telemetry(service: str) -> Telemetry:
        provider = TracerProvider(resource=Resource({SERVICE_NAME: service}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        return Telemetry(provider)

    gates = Gate(), Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(
            target_server(pair.target, gates[0], telemetry("target"), trace_detail=detail)
        )
        draft = await stack.enter_async_context(
            draft_server(pair.draft, gates[1], telemetry("draft"), trace_detail=detail)
        )
        server = await stack.enter_async_context(
            orchestrator_server(target.address, draft.address, telemetry("orchestrator"), trace_detail=detail)
        )
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        yield Traced(client, draft, *gates, exporter)


def span_id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def service(span: ReadableSpan) -> object:
    return span.resource.attributes[SERVICE_NAME]


def trace_id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.trace_id


def attributes(of: ReadableSpan | Event) -> dict[str, Any]:
    return dict(of.attributes or {})


def events(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


@pytest.mark.parametrize("traced", ["request"], indirect=True)
async def test_requests_alone_are_traced_where_that_is_enough(traced: Traced) -> None:
    await traced.client.generate(speculation=fixed(3))
    await traced.finished()
    assert [span.name for span in traced.exporter.get_finished_spans()] == ["generate"]


async def test_one_request_is_one_trace(traced: Traced) -> None:
    generated = await traced.client.generate(speculation=fixed(3))
    await traced.finished()
    num_cycles, num_drafts = generated.counts.num_cycles, generated.counts.num_drafts
    spans = traced.exporter.get_finished_spans()
    assert Counter(span.name for span in spans) == {
        "generate": 1,
        "cycle": num_cycles,
        "verify": num_cycles,
        "target.verify": num_cycles,
        "propose": num_drafts,
        "draft.propose": num_drafts,
    }
    assert {f"{trace_id(span):032x}" for span in spans} == {generated.summary.trace_id}


async def test_every_span_has_the_right_parent_service_and_kind(traced: Traced) -> None:
    await traced.client.generate(speculation=fixed(3))
    await traced.finished()
    (root,) = traced.spans("generate")
    assert (parent_id(root), service(root), root.kind) == (None, "orchestrator", SpanKind.SERVER)
    by_id = {span_id(span): span for span in traced.exporter.get_finished_spans()}
    for name, parent, where, kind in (
        ("cycle", "generate", "orchestrator", SpanKind.INTERNAL),
        ("verify", "cycle", "orchestrator", SpanKind.CLIENT),
        ("propose", "cycle", "orchestrator", SpanKind.CLIENT),
        ("target.verify", "verify", "target", SpanKind.SERVER),
        ("draft.propose", "propose", "draft", SpanKind.SERVER),
    ):
        spans = traced.spans(name)
        parents = [by_id[parent_id(span) or 0] for span in spans]
        assert {(each.name, service(span), span.kind) for each, span in zip(parents, spans, strict=True)} == {
            (parent, where, kind)
        }
        if parent != "generate":
            assert len({span_id(each) for each in parents}) == len(spans), "each has a parent of its own"


async def test_a_cycle_tells_what_it_did(traced: Traced) -> None:
    generated = await traced.client.generate(speculation=fixed(3))
    await traced.finished()
    told = [attributes(span) for span in traced.spans("cycle")]
    assert [each["outrider.cycle.index"] for each in told] == list(range(generated.counts.num_cycles))
    assert sum(each["outrider.cycle.num_draft_tokens"] for each in told) == generated.counts.num_draft_tokens
    assert sum(each["outrider.cycle.num_accepted"] for each in told) == generated.counts.num_accepted_tokens
    assert {each["outrider.cycle.drafter"] for each in told} == {"remote"}
    sizes = [len(chunk.tokens) - 1 for chunk in generated.chunks if chunk.tokens]
    assert [each["outrider.cycle.num_accepted"] for each in told] == sizes


async def test_the_root_tells_of_the_request(traced: Traced) -> None:
    generated = await traced.client.generate(temperature=0.5, speculation=fixed(3))
    await traced.finished()
    told = attributes(traced.spans("generate")[0])
    usage = generated.summary.usage
    assert told == told | {
        "gen_ai.request.model": "tiny-target",
        "gen_ai.request.max_tokens": 48,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.input_tokens": usage.num_prompt_tokens,
        "gen_ai.usage.output_tokens": usage.num_generated_tokens,
        "gen_ai.response.finish_reasons": ("length",),
        "outrider.num_draft_tokens": generated.counts.num_draft_tokens,
        "outrider.num_accepted_tokens": generated.counts.num_accepted_tokens,
    }


async def test_servers_tell_of_the_queue_and_the_decode(traced: Traced) -> None:
    await traced.client.generate(speculation=fixed(3))
    await traced.finished()
    for span in (*traced.spans("target.verify"), *traced.spans("draft.propose")):
        assert events(span) == ["outrider.queued", "outrider.decode", "outrider.computed"]
        times = [event.timestamp or 0 for event in span.events]
        assert times == sorted(times)
        decode = attributes(span.events[1])
        assert decode["outrider.num_decodes"] >= 1
        assert decode["outrider.batch_rows"] >= 1
        # Microseconds may be lost between two clocks.
        assert 0 < decode["outrider.decode_ms"] <= (times[2] - times[1]) / 1e6 + 0.1


async def test_a_client_may_bring_a_trace_of_its_own(traced: Traced) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    call = traced.client.stub.Generate(generate_request(max_tokens=4), metadata=(("traceparent", traceparent),))
    messages = [message async for message in call]
    await traced.finished()
    assert messages[-1].summary.trace_id == "0af7651916cd43dd8448eb211c80319c"
    (root,) = traced.spans("generate")
    assert parent_id(root) == 0xB7AD6B7169203331
    trace_ids = {trace_id(span) for span in traced.exporter.get_finished_spans()}
    assert trace_ids == {0x0AF7651916CD43DD8448EB211C80319C}


async def test_requests_have_traces_of_their_own(traced: Traced) -> None:
    answers = [await traced.client.generate(max_tokens=8, speculation=each) for each in (OFF, fixed(3))]
    await traced.finished(num_roots=2)
    first, second = (answer.summary.trace_id for answer in answers)
    assert first != second
    by_trace = {f"{trace_id(root):032x}": trace_id(root) for root in traced.spans("generate")}
    assert set(by_trace) == {first, second}
    proposals = {trace_id(span) for span in traced.spans("propose")}
    assert proposals == {by_trace[second]}
    assert {attributes(span)["outrider.cycle.drafter"] for span in traced.spans("cycle")} == {
        "none",
        "remote",
    }


async def test_the_loss_of_the_draft_is_in_the_trace(traced: Traced) -> None:
    traced.draft_gate.hold_after(10)
    task = asyncio.create_task(traced.client.generate(speculation=fixed(4)))
    await traced.draft_gate.reached()
    stopping = asyncio.create_task(traced.draft.stop(0))
    await traced.client.until_draft(is_available=False)
    traced.draft_gate.open()
    await stopping
    generated = await task
    await traced.finished()
    num_drafts = generated.counts.num_drafts
    proposals = traced.spans("propose")
    assert [events(span) for span in proposals[:num_drafts]] == [["outrider.attach"], *[[]] * (num_drafts - 1)]
    # What follows are the one that was lost, and tries whether the draft is back. If the loss was found out otherwise,
    # the cycle tells.
    assert {tuple(events(span)) for span in proposals[num_drafts:]} <= {("outrider.fallback",)}
    told = [span for span in (*proposals, *traced.spans("cycle")) if "outrider.fallback" in events(span)]
    assert told
    for span in told:
        assert attributes(span.events[0])["outrider.reason"]
    assert len(traced.spans("cycle")) == generated.counts.num_cycles


async def test_a_replay_is_in_the_trace(traced: Traced) -> None:
    traced.target_gate.hold_after(5)
    task = asyncio.create_task(traced.client.generate(speculation=fixed(3)))
    await traced.target_gate.reached()
    # Other sessions take all slots of the draft while it waits for its turn.
    async with grpc.aio.insecure_channel(traced.draft.address) as channel:
        stub = draft_pb2_grpc.DraftServiceStub(channel)
        for number in range(4):
            context = common_pb2.Context(session_id=f"other {number}", tokens=[0, number])
            await stub.Propose(draft_pb2.ProposeRequest(request_id=1, context=context, num_draft_tokens=1))
    traced.target_gate.open()
    generated = await task
    await traced.finished()
    assert generated.counts.num_resyncs == 1
    replayed = [span for span in traced.spans("propose") if "outrider.resync" in events(span)]
    assert [(events(span), attributes(span.events[0])) for span in replayed] == [
        (["outrider.resync"], {"outrider.held_length": 0})
    ]
    # Both messages, the one that missed and the replay, are its children.
    children = [span for span in traced.spans("draft.propose") if parent_id(span) == span_id(replayed[0])]
    assert len(children) == 2


async def test_an_error_is_on_the_span(traced: Traced) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await traced.client.generate(temperature=-1.0)
    await soon(lambda: len(traced.spans("generate")) == 1)
    (root,) = traced.spans("generate")
    (verify,) = traced.spans("verify")
    for span in (root, verify):
        assert span.status.status_code is StatusCode.ERROR
        assert "exception" in events(span)
