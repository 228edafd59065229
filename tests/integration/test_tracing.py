"""One trace for one request, across a client and three services, as a collector receives it over OTLP."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc
import pytest
from opentelemetry.propagate import inject
from opentelemetry.trace import SpanKind

from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc
from services.frame.server import FrameServer
from services.frame.telemetry import Telemetry, child_span, configure_telemetry
from tests.collector import COLLECTING, CollectedSpan, Collector
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
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration

REQUEST = "text_completion outrider-target"
ORCHESTRATOR, TARGET, DRAFT, CLIENT = "outrider-orchestrator", "outrider-target", "outrider-draft", "a client"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


T = TypeVar("T")


@dataclass
class Traced:
    """Three services whose spans end up in one collector, and a client that can have spans of its own."""

    client: Client
    target: FrameServer
    draft: FrameServer
    target_gate: Gate
    draft_gate: Gate
    collector: Collector
    telemetries: dict[str, Telemetry]

    @property
    def spans(self) -> list[CollectedSpan]:
        return self.collector.spans

    def named(self, name: str) -> list[CollectedSpan]:
        """The spans of a name, in the order in which they began."""
        return self.collector.named(name)

    async def finished(self, num_requests: int = 1) -> None:
        """Return once so many requests have been received, and what ended before them."""
        await soon(lambda: len(self.named(REQUEST)) == num_requests)
        for telemetry in self.telemetries.values():
            assert telemetry.recorder is not None
            await asyncio.to_thread(telemetry.recorder.flush)

    @contextmanager
    def asking(self) -> Iterator[list[tuple[str, str]]]:
        """A span of the client's. Gives the metadata with which it asks."""
        with child_span(self.telemetries[CLIENT], "ask", SpanKind.CLIENT):
            carrier: dict[str, str] = {}
            inject(carrier)
            yield list(carrier.items())


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Collector]:
    """A collector that the environment names; `param` is the protocol."""
    protocol = getattr(request, "param", "grpc")
    with COLLECTING[protocol]() as collector:
        collector.open.set()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
        yield collector


@pytest.fixture(params=["cycle"])
async def traced(pair: Pair, collector: Collector, request: pytest.FixtureRequest) -> AsyncIterator[Traced]:
    """`param` is how much detail the orchestrator traces; the services would trace every message."""
    gates = Gate(), Gate()
    async with AsyncExitStack() as stack:
        telemetries = {service: configure_telemetry(service) for service in (CLIENT, TARGET, DRAFT, ORCHESTRATOR)}
        for telemetry in telemetries.values():
            stack.callback(telemetry.shutdown)
        target = await stack.enter_async_context(target_server(pair.target, gates[0], telemetries[TARGET]))
        draft = await stack.enter_async_context(draft_server(pair.draft, gates[1], telemetries[DRAFT]))
        server = await stack.enter_async_context(
            orchestrator_server(target.address, draft.address, telemetries[ORCHESTRATOR], trace_detail=request.param)
        )
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        yield Traced(client, target, draft, *gates, collector, telemetries)


def only(found: Sequence[T]) -> T:
    (one,) = found
    return one


@pytest.mark.parametrize("collector", COLLECTING, indirect=True)
async def test_one_request_is_one_tree(traced: Traced) -> None:
    with traced.asking() as metadata:
        generated = await traced.client.generate(metadata=metadata, speculation=fixed(3))
    await traced.finished()
    num_cycles, num_drafts = generated.counts.num_cycles, generated.counts.num_drafts
    tree = (
        # name, parent, service, kind, how many
        ("ask", None, CLIENT, "CLIENT", 1),
        (REQUEST, "ask", ORCHESTRATOR, "SERVER", 1),
        ("cycle", REQUEST, ORCHESTRATOR, "INTERNAL", num_cycles),
        ("verify", "cycle", ORCHESTRATOR, "CLIENT", num_cycles),
        ("target.verify", "verify", TARGET, "SERVER", num_cycles),
        ("propose", "cycle", ORCHESTRATOR, "CLIENT", num_drafts),
        ("draft.propose", "propose", DRAFT, "SERVER", num_drafts),
    )
    await soon(lambda: traced.named("ask"))
    assert Counter(span.name for span in traced.spans) == {name: count for name, *_, count in tree}
    assert {span.trace_id for span in traced.spans} == {generated.summary.trace_id}
    by_id = {span.span_id: span for span in traced.spans}
    assert len(by_id) == len(traced.spans)
    assert {(len(span.trace_id), len(span.span_id)) for span in traced.spans} == {(32, 16)}
    assert {span.num_dropped for span in traced.spans} == {0}
    for name, parent, service, kind, count in tree:
        spans = traced.named(name)
        assert {(span.service, span.kind) for span in spans} == {(service, kind)}
        assert not any(span.is_error for span in spans)
        if parent is None:
            assert [span.parent_id for span in spans] == [""]
            continue
        parents = [by_id[span.parent_id] for span in spans]
        assert {each.name for each in parents} == {parent}
        # All of one clock: they run within their parents.
        assert all(
            each.started_ns <= span.started_ns <= span.ended_ns <= each.ended_ns
            for each, span in zip(parents, spans, strict=True)
        )
        assert len({each.span_id for each in parents}) == (1 if parent == REQUEST else count)


async def test_a_tracestate_goes_through_all_services(traced: Traced) -> None:
    metadata = [("traceparent", f"{TRACEPARENT}-01"), ("tracestate", "vendor=value"), ("tracestate", "other=1")]
    await traced.client.generate(metadata=metadata, speculation=fixed(3))
    await traced.finished()
    assert {span.service for span in traced.spans} == {ORCHESTRATOR, TARGET, DRAFT}
    assert {span.tracestate for span in traced.spans} == {"vendor=value,other=1"}


async def test_the_request_alone_is_an_answer_of_a_model(traced: Traced) -> None:
    await traced.client.generate(speculation=fixed(3))
    await traced.finished()
    assert {(span.name, span.attributes["openinference.span.kind"]) for span in traced.spans} == {
        (REQUEST, "LLM"),
        *((name, "CHAIN") for name in ("cycle", "propose", "draft.propose", "verify", "target.verify")),
    }


async def test_a_cycle_tells_what_it_did(traced: Traced) -> None:
    generated = await traced.client.generate(speculation=fixed(3))
    await traced.finished()
    told = [span.attributes for span in traced.named("cycle")]
    assert [each["outrider.cycle.index"] for each in told] == list(range(generated.counts.num_cycles))
    assert sum(each["outrider.cycle.num_draft_tokens"] for each in told) == generated.counts.num_draft_tokens
    assert sum(each["outrider.cycle.num_accepted"] for each in told) == generated.counts.num_accepted_tokens
    # The last cycle has one token left to make, and nothing to draft.
    for each in told:
        assert each["outrider.cycle.drafter"] == ("remote" if each["outrider.cycle.num_draft_tokens"] else "none")
    sizes = [len(chunk.tokens) - 1 for chunk in generated.chunks if chunk.tokens]
    assert [each["outrider.cycle.num_accepted"] for each in told] == sizes


async def test_the_root_tells_of_the_request(traced: Traced) -> None:
    generated = await traced.client.generate(temperature=0.5, speculation=fixed(3), stop=["no such text"])
    await traced.finished()
    usage, counts = generated.summary.usage, generated.counts
    told = dict(only(traced.named(REQUEST)).attributes)
    assert told.pop("outrider.first_token_ms") == generated.summary.timings.first_token_ms
    assert told == {
        "openinference.span.kind": "LLM",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "outrider",
        "gen_ai.request.model": "outrider-target",
        "gen_ai.response.model": "outrider-target",
        "gen_ai.request.stream": True,
        "gen_ai.request.seed": 5,
        "gen_ai.request.max_tokens": 48,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stop_sequences": ["no such text"],
        "gen_ai.usage.input_tokens": usage.num_prompt_tokens,
        "gen_ai.usage.output_tokens": usage.num_generated_tokens,
        "gen_ai.response.finish_reasons": ["length"],
        "outrider.exact": False,
        "outrider.seed": "5",
        "outrider.num_cycles": counts.num_cycles,
        "outrider.num_draft_tokens": counts.num_draft_tokens,
        "outrider.num_accepted_tokens": counts.num_accepted_tokens,
        "outrider.num_fallbacks": 0,
        "outrider.num_resyncs": 0,
    }


async def test_servers_tell_of_the_queue_and_the_decode(traced: Traced) -> None:
    await traced.client.generate(speculation=fixed(3))
    await traced.finished()
    for span in (*traced.named("target.verify"), *traced.named("draft.propose")):
        assert span.event_names == ["outrider.queued", "outrider.decode", "outrider.computed"]
        queued, decode, computed = span.events
        # Microseconds may be lost between two clocks.
        times = [span.started_ns - 100_000, queued.time_ns, decode.time_ns, computed.time_ns, span.ended_ns + 100_000]
        assert times == sorted(times)
        assert 0 <= decode.attributes["outrider.queued_ms"] <= (decode.time_ns - queued.time_ns) / 1e6 + 0.1
        assert decode.attributes["outrider.num_decodes"] >= 1
        assert decode.attributes["outrider.batch_rows"] >= 1
        assert 0 < decode.attributes["outrider.decode_ms"] <= (computed.time_ns - decode.time_ns) / 1e6 + 0.1


async def test_many_requests_at_once_lose_no_span(traced: Traced) -> None:
    prompts = [f"def f{number}(" for number in range(8)]
    answers = await asyncio.gather(*(traced.client.generate(prompt, speculation=fixed(3)) for prompt in prompts))
    await traced.finished(num_requests=8)
    assert len({answer.summary.trace_id for answer in answers}) == 8
    for answer in answers:
        spans = [span for span in traced.spans if span.trace_id == answer.summary.trace_id]
        num_named = Counter(span.name for span in spans)
        assert num_named["cycle"] == num_named["verify"] == answer.counts.num_cycles
        # There are more sessions than slots: some messages are asked again.
        assert num_named["target.verify"] >= answer.counts.num_cycles
        assert num_named["draft.propose"] >= num_named["propose"] >= answer.counts.num_drafts > 0


async def test_plain_decoding_is_cycles_without_proposals(traced: Traced) -> None:
    generated = await traced.client.generate(max_tokens=8, speculation=OFF)
    await traced.finished()
    assert not traced.named("propose")
    told = [span.attributes for span in traced.named("cycle")]
    assert len(told) == generated.counts.num_cycles == 8
    assert {each["outrider.cycle.drafter"] for each in told} == {"none"}


@pytest.mark.parametrize("traced", ["request"], indirect=True)
async def test_requests_alone_are_traced_where_that_is_enough(traced: Traced) -> None:
    with traced.asking() as metadata:
        generated = await traced.client.generate(metadata=metadata, speculation=fixed(3))
    await soon(lambda: traced.named("ask"))
    await traced.finished()
    assert Counter(span.name for span in traced.spans) == {"ask": 1, REQUEST: 1}
    assert only(traced.named(REQUEST)).attributes["outrider.num_cycles"] == generated.counts.num_cycles


async def test_a_client_that_does_not_record_is_followed(traced: Traced) -> None:
    generated = await traced.client.generate(metadata=[("traceparent", f"{TRACEPARENT}-00")], speculation=fixed(3))
    assert generated.summary.trace_id in TRACEPARENT
    # What comes after it is there, and nothing else.
    again = await traced.client.generate(max_tokens=4, metadata=[("traceparent", f"{TRACEPARENT}-01")], speculation=OFF)
    await traced.finished()
    assert len(traced.named("target.verify")) == again.counts.num_cycles
    assert not traced.named("draft.propose")


async def test_unary_calls_are_traced_like_messages_of_a_stream(traced: Traced) -> None:
    context = common_pb2.Context(session_id="unary", tokens=[0, 1], traceparent=f"{TRACEPARENT}-01")
    async with (
        grpc.aio.insecure_channel(traced.target.address) as target,
        grpc.aio.insecure_channel(traced.draft.address) as draft,
    ):
        await draft_pb2_grpc.DraftServiceStub(draft).Propose(
            draft_pb2.ProposeRequest(request_id=1, context=context, num_draft_tokens=2)
        )
        await target_pb2_grpc.TargetServiceStub(target).VerifyBatch(
            target_pb2.VerifyBatchRequest(request_id=1, context=context)
        )
    await soon(lambda: len(traced.spans) == 2)
    told = {(span.name, f"00-{span.trace_id}-{span.parent_id}") for span in traced.spans}
    assert told == {("draft.propose", TRACEPARENT), ("target.verify", TRACEPARENT)}


async def _lose_the_draft(traced: Traced) -> None:
    """Generate, and take the draft away in the middle."""
    traced.draft_gate.hold_after(10)
    task = asyncio.create_task(traced.client.generate(speculation=fixed(4)))
    await traced.draft_gate.reached()
    stopping = asyncio.create_task(traced.draft.stop(0))
    await traced.client.until_draft(is_available=False)
    traced.draft_gate.open()
    await stopping
    generated = await task
    assert generated.counts.num_fallbacks == 1


async def test_the_loss_of_the_draft_is_in_the_trace(traced: Traced) -> None:
    await _lose_the_draft(traced)
    await traced.finished()
    proposals = traced.named("propose")
    assert proposals[0].event_names == ["outrider.attach"]
    # The proposal that was lost tells. If the loss was found out otherwise, the request does.
    lost = [event for span in traced.spans for event in span.events if event.name == "outrider.fallback"]
    assert lost
    assert all(event.attributes["outrider.reason"] for event in lost)
    last = traced.named("cycle")[-1]
    assert last.attributes["outrider.cycle.drafter"] != "remote"
    assert only(traced.named(REQUEST)).attributes["outrider.num_fallbacks"] == 1


@pytest.mark.parametrize("traced", ["request"], indirect=True)
async def test_the_loss_of_the_draft_is_in_the_trace_of_requests_alone(traced: Traced) -> None:
    await _lose_the_draft(traced)
    await traced.finished()
    request = only(traced.spans)
    assert request.event_names[:2] == ["outrider.attach", "outrider.fallback"]
    assert request.events[1].attributes["outrider.reason"]


async def test_the_draft_that_comes_back_is_in_the_trace(traced: Traced, pair: Pair) -> None:
    gate = traced.target_gate
    gate.hold_after(5)
    task = asyncio.create_task(traced.client.generate(speculation=fixed(4)))
    await gate.reached()
    await traced.draft.stop(0)
    await traced.client.until_draft(is_available=False)
    gate.open()
    gate.hold_after(5)  # a few cycles without a draft
    await gate.reached()
    async with draft_server(pair.draft, telemetry=traced.telemetries[DRAFT], port=traced.draft.port):
        await traced.client.until_draft(is_available=True)
        gate.open()
        generated = await task
    await traced.finished()
    assert generated.counts.num_fallbacks == 1
    changes = ("outrider.attach", "outrider.fallback")
    found = [event for span in traced.spans for event in span.events if event.name in changes]
    told = [event.name for event in sorted(found, key=lambda event: event.time_ns)]
    assert told == ["outrider.attach", "outrider.fallback", "outrider.attach"]


async def test_a_replay_is_in_the_trace(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    # A session loses its slot however short it is away.
    for name in ("_RETURNS", "_LEAST_EXPECTED_S"):
        monkeypatch.setattr(f"services.engine.scheduling.gathering.{name}", 0.0)
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
    replayed = only([span for span in traced.named("propose") if "outrider.resync" in span.event_names])
    assert only(replayed.events).attributes == {"outrider.held_length": 0}

    def answers() -> list[CollectedSpan]:
        return [span for span in traced.named("draft.propose") if span.parent_id == replayed.span_id]

    # Both messages, the one that missed and the replay, are its children.
    await soon(lambda: len(answers()) == 2)
    missed, answered = answers()
    assert missed.event_names == ["outrider.queued", "outrider.cache_miss"]
    assert answered.event_names == ["outrider.queued", "outrider.decode", "outrider.computed"]


async def test_an_error_is_on_every_span_that_it_passed(traced: Traced) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await traced.client.generate(temperature=-1.0)
    await traced.finished()
    for name in (REQUEST, "cycle", "verify", "target.verify"):
        span = only(traced.named(name))
        assert span.is_error
        assert span.attributes["error.type"] == "INVALID_SAMPLING"
        assert span.event_names == ["exception"]


async def test_a_request_that_is_refused_at_once_is_in_a_trace(traced: Traced) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await traced.client.generate(max_tokens=0)
    await traced.finished()
    assert only(traced.spans).attributes["error.type"] == "INVALID_REQUEST"


async def test_a_client_that_gives_up_is_in_the_trace(traced: Traced) -> None:
    traced.target_gate.hold_after(3)
    call = traced.client.stub.Generate(generate_request(speculation=OFF), timeout=PATIENCE_S)
    await traced.target_gate.reached()
    call.cancel()
    await soon(lambda: traced.named(REQUEST))
    traced.target_gate.open()
    await traced.finished()
    # The messages that were answered have no such event.
    for name in (REQUEST, "cycle", "verify"):
        span = traced.named(name)[-1]
        assert not span.is_error
        assert span.event_names[-1] == "outrider.cancelled"


@pytest.fixture
def _content_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true")


@pytest.mark.usefixtures("_content_told")
async def test_texts_are_told_where_that_is_asked_for(traced: Traced) -> None:
    generated = await traced.client.generate("def main(", speculation=fixed(3))
    await traced.finished()
    told = only(traced.named(REQUEST)).attributes
    assert json.loads(told["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": "def main("}]}
    ]
    assert json.loads(told["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": generated.text}], "finish_reason": "length"}
    ]
