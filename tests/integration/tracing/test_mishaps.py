"""A draft that is lost and comes back, replays, errors and cancellations, as a trace tells them."""

import asyncio

import grpc
import pytest

from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from tests.collector import CollectedSpan
from tests.integration.conftest import Pair
from tests.integration.services import OFF, draft_server, fixed, generate_request
from tests.integration.tracing.traced import DRAFT, REQUEST, Traced, only
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration


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
