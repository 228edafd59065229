"""One trace for one request, across a client and three services, as a collector receives it over OTLP."""

import asyncio
from collections import Counter

import grpc
import pytest

from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc
from tests.collector import COLLECTING
from tests.integration.services import OFF, fixed
from tests.integration.tracing.traced import CLIENT, DRAFT, ORCHESTRATOR, REQUEST, TARGET, TRACEPARENT, Traced, only
from tests.waiting import soon

pytestmark = pytest.mark.integration


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
