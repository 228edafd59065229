"""One graph pass for every VerifyBatch, whatever the number of draft tokens, and one for many sessions together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import grpc
import pytest

from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc
from services.draft.application import DraftApplication
from services.draft.settings import DraftSettings
from services.engine.runtime.interface import Runtime
from services.engine.runtime.padding import PaddedRuntime
from services.engine.runtime.runtime import LlamaRuntime
from services.engine.scheduling.gathering import Gathering
from services.engine.startup.model_service import LoadedModel
from services.frame.server import FrameServer
from services.target.application import TargetApplication
from services.target.settings import TargetSettings
from tests.integration.conftest import Pair
from tests.integration.services import ENGINE_SETTINGS, Gate, GatedRuntime
from tests.unit.engine.linear_costs import LinearCosts
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration

NUM_SLOTS = 9
PROMPT = [0, 7, 300, 21, 5]


@dataclass
class Counted:
    """A service whose passes are counted, and the gate that its decodes go through."""

    channel: grpc.aio.Channel
    application: "CountingTarget | CountingDraft"
    gate: Gate

    @property
    def num_passes(self) -> int:
        return self.application.inner.num_passes

    @property
    def num_decodes(self) -> int:
        return self.application.inner.num_decodes


def counting_runtime(runtime: Runtime) -> tuple[PaddedRuntime, LlamaRuntime]:
    """What was made, and the runtime in it that counts."""
    assert isinstance(runtime, PaddedRuntime)
    inner = runtime._inner
    assert isinstance(inner, LlamaRuntime)
    return runtime, inner


class CountingTarget(TargetApplication):
    padded: PaddedRuntime
    inner: LlamaRuntime
    gate: Gate

    def make_runtime(self, loaded: LoadedModel) -> Runtime:
        loaded = replace(loaded, options=replace(loaded.options, count_passes=True))
        self.padded, self.inner = counting_runtime(super().make_runtime(loaded))
        return GatedRuntime(self.padded, self.gate)


class CountingDraft(DraftApplication):
    padded: PaddedRuntime
    inner: LlamaRuntime
    gate: Gate

    def make_runtime(self, loaded: LoadedModel) -> Runtime:
        loaded = replace(loaded, options=replace(loaded.options, count_passes=True))
        self.padded, self.inner = counting_runtime(super().make_runtime(loaded))
        return GatedRuntime(self.padded, self.gate)


@asynccontextmanager
async def counting(application: CountingTarget | CountingDraft) -> AsyncIterator[Counted]:
    """A server with the application, and a channel to it."""
    application.gate = Gate()
    async with (
        FrameServer(application.settings, application) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield Counted(channel, application, application.gate)


@pytest.fixture
async def target(pair: Pair) -> AsyncIterator[Counted]:
    settings = {**ENGINE_SETTINGS, "slots": NUM_SLOTS}
    async with counting(CountingTarget(TargetSettings(model=pair.target, port=0, exact="off", **settings))) as counted:
        # As on a device where rows cost next to nothing: what is ready is decoded together.
        counted.application.padded.costs = LinearCosts(1000.0, row_s=1e-6)
        yield counted


def verify_request(
    session_id: str, request_id: int, draft_tokens: list[int], tokens: list[int] | None = None
) -> target_pb2.VerifyBatchRequest:
    context = common_pb2.Context(session_id=session_id, tokens=PROMPT if tokens is None else tokens)
    return target_pb2.VerifyBatchRequest(request_id=request_id, context=context, draft_tokens=draft_tokens)


async def test_a_verification_is_one_pass_whatever_the_number_of_draft_tokens(target: Counted) -> None:
    stub = target_pb2_grpc.TargetServiceStub(target.channel)
    await stub.VerifyBatch(verify_request("a", 1, []))
    for num_draft_tokens in range(9):
        before = target.num_passes, target.num_decodes
        reply = await stub.VerifyBatch(verify_request("a", 2 + num_draft_tokens, [9] * num_draft_tokens))
        assert reply.timings.batch_rows == 1 + num_draft_tokens
        assert (target.num_passes, target.num_decodes) == (before[0] + 1, before[1] + 1)


async def test_a_prompt_is_one_pass_for_each_part(target: Counted) -> None:
    stub = target_pb2_grpc.TargetServiceStub(target.channel)
    before = target.num_passes
    reply = await stub.VerifyBatch(verify_request("a", 1, [], tokens=[7] * 200))
    assert reply.timings.num_decodes == target.num_passes - before == 1


async def test_sessions_that_are_ready_together_share_a_pass(target: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight of them, with drafts of 0 to 7 tokens."""
    # Two groups would be quicker for callers that take longer than a decode of this model.
    monkeypatch.setattr(Gathering, "most_together", lambda gathering: None)
    stub = target_pb2_grpc.TargetServiceStub(target.channel)
    engine = target.application.engine
    assert engine is not None
    names = [f"session {number}" for number in range(8)]
    for name in names:
        await stub.VerifyBatch(verify_request(name, 1, []))
    alone = [
        (await stub.VerifyBatch(verify_request(name, 2, [9] * number))).result for number, name in enumerate(names)
    ]
    before = target.num_passes, target.num_decodes
    target.gate.hold_after(0)
    first = asyncio.ensure_future(_verify(stub, verify_request("another", 1, [])))
    await target.gate.reached()
    others = [
        asyncio.ensure_future(_verify(stub, verify_request(name, 3, [9] * number))) for number, name in enumerate(names)
    ]
    await soon(lambda: engine.num_unanswered == 9)
    target.gate.open()
    replies = await asyncio.gather(*others)
    await first
    assert (target.num_passes, target.num_decodes) == (before[0] + 2, before[1] + 2)
    assert {reply.timings.batch_rows for reply in replies} == {8 + sum(range(8))}
    assert [reply.result for reply in replies] == alone


async def _verify(
    stub: target_pb2_grpc.TargetServiceStub, request: target_pb2.VerifyBatchRequest
) -> target_pb2.VerifyBatchResponse:
    reply: target_pb2.VerifyBatchResponse = await stub.VerifyBatch(request, timeout=PATIENCE_S)
    return reply


async def test_sessions_with_gaps_between_them_share_a_pass(target: Counted) -> None:
    stub = target_pb2_grpc.TargetServiceStub(target.channel)
    engine = target.application.engine
    assert engine is not None
    for number in range(8):
        await stub.VerifyBatch(verify_request(f"session {number}", 1, []))
    before = target.num_passes
    target.gate.hold_after(0)
    first = asyncio.ensure_future(_verify(stub, verify_request("session 0", 2, [])))
    await target.gate.reached()
    others = [
        asyncio.ensure_future(_verify(stub, verify_request(f"session {number}", 2, [9] * number)))
        for number in (2, 5, 7)
    ]
    await soon(lambda: engine.num_unanswered == 4)
    target.gate.open()
    await asyncio.gather(first, *others)
    assert target.num_passes == before + 2


async def test_where_rows_cost_more_than_decodes_each_session_has_its_own(target: Counted) -> None:
    target.application.padded.costs = LinearCosts(0.0)
    stub = target_pb2_grpc.TargetServiceStub(target.channel)
    engine = target.application.engine
    assert engine is not None
    for number in range(3):
        await stub.VerifyBatch(verify_request(f"session {number}", 1, []))
    before = target.num_passes, target.num_decodes
    target.gate.hold_after(0)
    first = asyncio.ensure_future(_verify(stub, verify_request("session 0", 2, [])))
    await target.gate.reached()
    others = [
        asyncio.ensure_future(_verify(stub, verify_request(f"session {number}", 2, [9] * number))) for number in (1, 2)
    ]
    await soon(lambda: engine.num_unanswered == 3)
    target.gate.open()
    await asyncio.gather(first, *others)
    assert (target.num_passes, target.num_decodes) == (before[0] + 3, before[1] + 3)


async def test_a_proposal_is_one_pass_a_token(pair: Pair) -> None:
    settings = DraftSettings(model=pair.draft, port=0, **ENGINE_SETTINGS)
    async with counting(CountingDraft(settings)) as draft:
        stub = draft_pb2_grpc.DraftServiceStub(draft.channel)
        for request_id, num_draft_tokens in enumerate((1, 4, 8), 1):
            before = draft.num_passes
            request = draft_pb2.ProposeRequest(
                request_id=request_id,
                context=common_pb2.Context(session_id="a", tokens=PROMPT),
                num_draft_tokens=num_draft_tokens,
            )
            reply = await stub.Propose(request)
            assert len(reply.result.draft_tokens) == num_draft_tokens
            # The prompt and each token but the last.
            assert draft.num_passes - before == reply.timings.num_decodes == num_draft_tokens
