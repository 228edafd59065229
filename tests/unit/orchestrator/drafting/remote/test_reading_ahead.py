"""Reading ahead: the service reads what it lacks while the session goes on without it."""

import asyncio

import grpc
import pytest

from orchestrator.drafting.drafter import REMOTE, Draft, Wanted
from outrider.v1 import draft_pb2
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.drafting.remote.drafters import PROMPT, attached, drafter_of, error, proposal, serviced
from tests.unit.orchestrator.scripted import Answer, Script
from tests.waiting import soon

AHEAD = Wanted(4, reads_ahead=True)
READING = Draft(drafter=REMOTE, is_reading=True)


async def test_nothing_is_waited_for_until_it_has_read_and_then_it_drafts() -> None:
    may_answer = asyncio.Event()

    async def read(request: draft_pb2.ProposeRequest) -> Answer:
        await may_answer.wait()
        return proposal(7)

    script = Script([read, proposal(8, 9)])
    sequence = TokenSequence(PROMPT)
    async with attached(script) as drafter:
        for token in (11, 12):
            assert await drafter.propose(sequence, AHEAD) == READING
            await soon(lambda: script.requests)
            sequence.extend([token])
        # Neither does one that is wanted no more.
        assert await drafter.propose(sequence, Wanted(0)) == READING
        may_answer.set()
        async with asyncio.timeout(20):
            while (draft := await drafter.propose(sequence, AHEAD)) == READING:
                await asyncio.sleep(0)
        assert (draft.tokens, draft.read_s, draft.drafter) == ((), 0.0, REMOTE), "its token is of a time that is past"
        assert list((await drafter.propose(sequence, Wanted(4))).tokens) == [8, 9]
    ahead, drafting = script.requests
    assert (ahead.reads_ahead, ahead.num_draft_tokens, list(ahead.context.tokens)) == (True, 1, PROMPT)
    assert (drafting.reads_ahead, drafting.context.cached_length) == (False, len(PROMPT))
    assert list(drafting.context.tokens) == [11, 12]


async def test_what_another_process_had_the_cores_for_was_not_read_in() -> None:
    timings = {"computed_ms": 900.0, "turn_ms": 400.0}
    reply = draft_pb2.ProposeResponse(result=proposal(7), timings=timings)
    async with attached(Script([])) as drafter:
        drafter._session.request = _answers(reply)  # type: ignore[method-assign]
        await drafter.propose(TokenSequence(PROMPT), AHEAD)
        await asyncio.sleep(0)
        assert (await drafter.propose(TokenSequence(PROMPT), AHEAD)).read_s == pytest.approx(0.5)


async def test_a_failure_to_read_is_one_to_draft() -> None:
    script = Script([error(grpc.StatusCode.INTERNAL), proposal(8)])
    async with attached(script) as drafter:
        await drafter.propose(TokenSequence(PROMPT), AHEAD)
        async with asyncio.timeout(20):
            while (draft := await drafter.propose(TokenSequence(PROMPT), AHEAD)) == READING:
                await asyncio.sleep(0)
        assert draft == Draft(drafter=REMOTE)
        assert drafter.problem == "a message"
        assert list((await drafter.propose(TokenSequence(PROMPT), Wanted(4))).tokens) == [8]


async def test_a_session_that_ends_while_it_is_read_for_lets_go() -> None:
    script = Script([None])
    async with serviced(script) as service:
        drafter = drafter_of(service)
        await drafter.propose(TokenSequence(PROMPT), AHEAD)
        await soon(lambda: len(script.requests) == 1)
        await drafter.close()
        assert drafter._reading is not None and drafter._reading.cancelled()
        await soon(lambda: script.num_released == 1)


def _answers(reply: draft_pb2.ProposeResponse):  # type: ignore[no-untyped-def]
    async def request(*_: object) -> draft_pb2.ProposeResponse:
        return reply

    return request
