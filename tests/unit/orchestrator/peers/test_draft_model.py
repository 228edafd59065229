"""A session of a draft that answers by itself: what it is asked for, and what the cycle is given of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest

from orchestrator.drafting.draft_view import DraftView
from orchestrator.drafting.drafter import FirstDrafter
from orchestrator.generation.cycle import FixedLength, run_cycles
from orchestrator.peers.draft_model import DraftModelSession
from orchestrator.peers.patient_session import ContextFullError
from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from services.frame.rpc.errors import ServiceError
from services.frame.telemetry import Telemetry
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.scripted import Script, ScriptedDraft, serving
from tests.waiting import PATIENCE_S, soon

PROMPT = [1, 2, 3]
SAMPLING = common_pb2.Sampling(temperature=0.5, seed=9)
MODEL = common_pb2.ModelInfo(
    name="draft", tokenizer_fingerprint="one", vocabulary_size=100, max_draft_tokens=4, context_length=50
)
UNAVAILABLE = ServiceError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", "it is stopping")


def counting(request: draft_pb2.ProposeRequest) -> draft_pb2.ProposeResult:
    """The tokens that count on from the last one, as many as are asked for."""
    first = request.context.tokens[-1] + 1
    tokens = range(first, first + request.num_draft_tokens)
    return draft_pb2.ProposeResult(draft_tokens=[draft_pb2.DraftToken(token=token) for token in tokens])


def ending(request: draft_pb2.ProposeRequest) -> draft_pb2.ProposeResult:
    result = counting(request)
    result.is_end_of_generation = True
    return result


@asynccontextmanager
async def attached(
    script: Script,
    *,
    described: Sequence[common_pb2.ModelInfo] = (),
    max_length: int = 1000,
    model: common_pb2.ModelInfo = MODEL,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[DraftModelSession]:
    descriptions = iter(described)

    async def describe() -> common_pb2.ModelInfo:
        return next(descriptions)

    async with serving(draft_pb2_grpc.add_DraftServiceServicer_to_server, ScriptedDraft(script)) as channel:
        session = DraftModelSession(
            draft_pb2_grpc.DraftServiceStub(channel),
            "the session",
            DraftView(SAMPLING, [7], 5),
            Telemetry.off(),
            model=model,
            describe=describe,
            patience_s=patience_s,
            max_length=max_length,
            vocabulary_size=100,
        )
        yield session
        await session.close()
        await soon(lambda: script.num_released == script.num_streams)


async def text_of(session: DraftModelSession, max_length: int, prompt: Sequence[int] = PROMPT) -> list[int]:
    sequence = TokenSequence(prompt)
    cycles = run_cycles(
        sequence, session, FirstDrafter(), FixedLength(0), max_length=max_length, telemetry=Telemetry.off()
    )
    async for cycle in cycles:
        assert len(cycle.tokens) == 1
    return sequence.tokens[len(prompt) :]


async def test_tokens_are_proposed_together_and_told_one_by_one() -> None:
    """The first comes as soon as it can, and nothing is proposed that is not wanted."""
    script = Script([counting, counting, counting])
    async with attached(script, max_length=10) as session:
        assert await text_of(session, 10) == [4, 5, 6, 7, 8, 9, 10]
    assert [request.num_draft_tokens for request in script.requests] == [1, 4, 2]
    # This service says that it keeps nothing of what it proposes.
    assert [list(request.context.tokens) for request in script.requests] == [PROMPT, [4], [5, 6, 7, 8]]
    first = script.requests[0]
    assert first.sampling == common_pb2.Sampling(temperature=0.5, seed=9, suppressed_tokens=[7])
    assert first.tokenizer_fingerprint == "one"
    # Whoever asks waits as long as it takes, also for a slot.
    assert first.timeout_ms == 0


async def test_the_model_ends_the_text() -> None:
    async with attached(Script([counting, ending])) as session:
        assert await text_of(session, 1000) == [4, 5, 6, 7, 8]


async def test_a_text_goes_on_up_to_the_context() -> None:
    script = Script([counting] * 20)
    async with attached(script) as session:
        assert await text_of(session, 1000) == list(range(4, 51))
        with pytest.raises(ContextFullError):
            await session.verify(TokenSequence([1] * 50), [])
    for request in script.requests:
        num_tokens = request.context.cached_length + len(request.context.tokens)
        assert num_tokens + request.num_draft_tokens - 1 <= MODEL.context_length


async def test_a_draft_that_is_away_is_waited_for_and_told_everything_again() -> None:
    script = Script([counting, UNAVAILABLE, counting])
    async with attached(script, described=[MODEL], max_length=6) as session:
        assert await text_of(session, 6) == [4, 5, 6]
        assert session.num_resyncs == 1
    assert list(script.requests[2].context.tokens) == [*PROMPT, 4]


async def test_a_draft_that_stays_away_is_told_of() -> None:
    async with attached(Script([UNAVAILABLE]), patience_s=0.0) as session:
        with pytest.raises(ServiceError) as info:
            await session.verify(TokenSequence(PROMPT), [])
    assert (info.value.code, info.value.reason) == (grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE")
    assert info.value.message.startswith("the draft has been away")


async def test_a_draft_that_takes_less_than_it_said_is_asked_for_less() -> None:
    refused = ServiceError(grpc.StatusCode.OUT_OF_RANGE, "DRAFT_TOO_LONG", "too many", metadata={"most": "2"})
    script = Script([counting, refused, counting, counting])
    async with attached(script, max_length=8) as session:
        assert await text_of(session, 8) == [4, 5, 6, 7, 8]
    assert [request.num_draft_tokens for request in script.requests] == [1, 4, 2, 2]


async def test_ids_that_the_draft_lacks_are_hidden_from_it() -> None:
    model = common_pb2.ModelInfo(vocabulary_size=40, max_draft_tokens=4, context_length=50)
    script = Script([counting, counting])
    async with attached(script, model=model, max_length=6) as session:
        assert await text_of(session, 6, [1, 60, 3]) == [4, 5, 6]
    assert list(script.requests[0].context.tokens) == [1, 5, 3]


async def test_a_draft_that_proposes_nothing_is_broken() -> None:
    async with attached(Script([draft_pb2.ProposeResult()])) as session:
        with pytest.raises(ServiceError) as info:
            await session.verify(TokenSequence(PROMPT), [])
    assert info.value.code is grpc.StatusCode.INTERNAL
