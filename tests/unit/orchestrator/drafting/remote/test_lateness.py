"""Drafts that are late: not waited for, and the service is lost only where they stay late."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from orchestrator.drafting import drafter as drafter_module
from orchestrator.drafting.drafter import Breaker, Wanted
from orchestrator.drafting.patience import DraftPatience
from outrider.v1 import draft_pb2
from services.session.client import ServiceSession
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.drafting.remote.drafters import (
    PROMPT,
    attached,
    drafter_of,
    error,
    own_messages,
    proposal,
    serviced,
)
from tests.unit.orchestrator.scripted import Answer, Script
from tests.waiting import PATIENCE_S, soon


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids of the requests that have left. One that is late before that ends its stream."""
    ids: list[int] = []
    write = ServiceSession._write

    async def note(stream: Any, message: Any) -> None:
        await write(stream, message)
        ids.append(message.propose.request_id)

    monkeypatch.setattr(ServiceSession, "_write", note)
    return ids


def pass_time(monkeypatch: pytest.MonkeyPatch, duration_s: float) -> None:
    """Let it be later for everybody who waits on this event loop."""
    loop = asyncio.get_running_loop()
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + duration_s)


async def test_a_late_draft_is_not_waited_for_and_dropped_by_its_id(
    monkeypatch: pytest.MonkeyPatch, written: list[int]
) -> None:
    may_answer = asyncio.Event()

    async def late(request: draft_pb2.ProposeRequest) -> Answer:
        await may_answer.wait()
        return proposal(7)

    script = Script([late, proposal(8)])
    breaker = Breaker(retry_s=0.0)
    patience = DraftPatience(PATIENCE_S / 2)
    async with attached(script, breaker=breaker, patience=patience) as drafter:
        proposing = asyncio.create_task(drafter.propose(TokenSequence(PROMPT), Wanted(2)))
        await soon(lambda: script.requests and written)
        pass_time(monkeypatch, PATIENCE_S / 2)
        draft = await proposing
        assert (draft.tokens, draft.drafter) == ((), "remote")
        assert draft.waited_s > 0
        assert breaker.reason == f"no draft within {PATIENCE_S / 2:g} s"
        may_answer.set()
        patience.most_s = PATIENCE_S
        assert list((await drafter.propose(TokenSequence(PROMPT), Wanted(2))).tokens) == [8]
        assert [request.request_id for request in script.requests] == [1, 2]
        assert script.num_streams == 1


class Impatient(DraftPatience):
    """Waits for the first draft, and two seconds for those after it."""

    def __init__(self) -> None:
        super().__init__(PATIENCE_S)
        self.noted: list[bool] = []

    def limit_s(
        self, num_draft_tokens: int, num_read_tokens: int, wanted_s: float = math.inf, *, is_try: bool = False
    ) -> float:
        return 2.0 if self.noted else self.most_s

    def note_proposal(self, num_draft_tokens: int, num_read_tokens: int, waited_s: float) -> None:
        self.noted.append(waited_s == 2.0)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, written: list[int]) -> Callable[[draft_pb2.ProposeRequest], Awaitable[None]]:
    """An answer that has not come when the two seconds are over."""

    async def let_time_pass(request: draft_pb2.ProposeRequest) -> None:
        await soon(lambda: request.request_id in written)
        pass_time(monkeypatch, 2.0)

    return let_time_pass


async def test_a_prompt_that_is_not_read_in_time_costs_no_session_the_service(
    monkeypatch: pytest.MonkeyPatch, written: list[int]
) -> None:
    """Sixteen that began together were read for one after the other, and all lost it when the first had to wait."""

    async def late(request: draft_pb2.ProposeRequest) -> None:
        await soon(lambda: request.request_id in written)
        pass_time(monkeypatch, PATIENCE_S / 8)

    script = Script([late, late, proposal(8)])
    breaker = Breaker(retry_s=1000.0)
    async with attached(script, breaker=breaker, patience=DraftPatience(PATIENCE_S / 8)) as drafter:
        sequence = TokenSequence(list(range(40)))
        for _ in range(2):
            assert not (await drafter.propose(sequence, Wanted(2))).tokens
            assert not breaker.is_open
        assert list((await drafter.propose(sequence, Wanted(2))).tokens) == [8]


async def test_a_draft_that_is_later_than_usual_costs_this_cycle_and_no_more(
    late: Callable[[Any], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    script = Script([proposal(7), late, late, proposal(8), late, late, late])
    breaker, patience = Breaker(retry_s=1000.0), Impatient()
    sequence = TokenSequence(PROMPT)
    async with attached(script, breaker=breaker, patience=patience) as drafter:
        await drafter.propose(sequence, Wanted(1))
        for _ in range(2):
            draft = await drafter.propose(sequence.extend([4]), Wanted(1))
            assert (draft.tokens, draft.drafter) == ((), "remote")
            assert not breaker.is_open
        patience.noted.clear()
        assert list((await drafter.propose(sequence.extend([4]), Wanted(1))).tokens) == [8]
        assert drafter.num_fallbacks == drafter.num_resyncs == 0
        assert own_messages(caplog) == []
        # What it held is believed to be there all along.
        assert [request.context.cached_length for request in script.requests] == [0, 3, 3, 3]
        for is_lost in (False, False, True):
            assert (await drafter.propose(sequence.extend([4]), Wanted(1))).tokens == ()
            assert breaker.is_open == is_lost
        assert breaker.reason == "no draft within 2 s"
        assert drafter.num_fallbacks == 1
        assert patience.noted == [False, True, True, True]


async def test_a_try_that_is_late_leaves_a_lost_service_lost(
    monkeypatch: pytest.MonkeyPatch, late: Callable[[Any], Awaitable[None]]
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(drafter_module, "time", SimpleNamespace(monotonic=lambda: now_s))
    script = Script([proposal(7), error(grpc.StatusCode.UNAVAILABLE), late, proposal(8)])
    breaker, patience = Breaker(retry_s=5.0), Impatient()
    async with attached(script, breaker=breaker, patience=patience) as drafter:
        for _ in range(2):
            await drafter.propose(TokenSequence(PROMPT), Wanted(1))
        now_s += 6.0
        assert (await drafter.propose(TokenSequence(PROMPT), Wanted(1))).tokens == ()
        assert breaker.is_open
        assert not breaker.may_try()
        # Nothing is learned from it: it took as long as it was waited for, and would next time.
        assert patience.noted == [False]
        now_s += 6.0
        patience.noted.clear()
        assert list((await drafter.propose(TokenSequence(PROMPT), Wanted(1))).tokens) == [8]


async def test_drafts_that_come_late_are_asked_for_again_at_once(
    late: Callable[[Any], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """The service is there: neither an outage nor a reason to wait for the next try."""
    answered = asyncio.Event()

    async def answer_late(request: draft_pb2.ProposeRequest) -> Answer:
        await late(request)
        await answered.wait()
        return proposal(9)

    script = Script([proposal(7), late, late, answer_late, proposal(8)])
    breaker = Breaker(retry_s=1000.0)
    sequence = TokenSequence(PROMPT)
    async with attached(script, breaker=breaker, patience=Impatient()) as drafter:
        for _ in range(4):
            await drafter.propose(sequence.extend([4]), Wanted(1))
        assert (breaker.is_open, breaker.is_lost) == (True, False)
        answered.set()
        await soon(lambda: not breaker.is_open)
        assert list((await drafter.propose(sequence.extend([4]), Wanted(1))).tokens) == [8]
        assert own_messages(caplog) == []


async def test_a_service_is_not_lost_for_sessions_that_end_before_their_drafts_come(
    late: Callable[[Any], Awaitable[None]],
) -> None:
    """Nobody hears what comes after that."""
    script, patience = Script([late] * 5), Impatient()
    patience.noted.append(False)
    async with serviced(script, breaker=Breaker(retry_s=0.0), patience=patience) as service:
        for _ in range(3):
            drafter = drafter_of(service)
            for _ in range(3):
                await drafter.propose(TokenSequence(PROMPT), Wanted(1))
                if service.breaker.is_open:
                    break
            await drafter.close()
            assert (service.breaker.is_open, service.breaker.is_lost) == (True, False)
        assert service.num_doubts == 3
