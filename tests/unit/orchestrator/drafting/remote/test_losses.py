"""Whatever goes wrong with its service, the remote drafter answers, and leaves it alone for a while."""

from types import SimpleNamespace

import grpc
import pytest

from orchestrator.drafting import drafter as drafter_module
from orchestrator.drafting.drafter import Breaker, Draft, Wanted
from orchestrator.drafting.patience import DraftPatience
from outrider.v1 import draft_pb2
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.drafting.remote.drafters import (
    PROMPT,
    Service,
    attached,
    described,
    drafter_of,
    error,
    own_messages,
    proposal,
    serviced,
)
from tests.unit.orchestrator.scripted import Answer, Script
from tests.waiting import PATIENCE_S


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL],
)
async def test_a_service_that_fails_is_left_alone_and_tried_again(code: grpc.StatusCode) -> None:
    script = Script([proposal(7), error(code), proposal(8), proposal(9)])
    breaker = Breaker(retry_s=1000.0)
    sequence = TokenSequence(PROMPT)
    async with attached(script, breaker=breaker) as drafter:
        assert list((await drafter.propose(sequence, Wanted(2))).tokens) == [7]
        assert (await drafter.propose(sequence, Wanted(2))).tokens == ()
        assert breaker.is_open
        assert breaker.reason == "a message"
        assert await drafter.propose(sequence, Wanted(2)) == Draft()
        assert len(script.requests) == 2
        assert drafter.num_fallbacks == 1
        breaker.succeed()
        # Another session has found out that it is back. It may be another one now: it gets the whole sequence.
        assert list((await drafter.propose(sequence.extend([4]), Wanted(2))).tokens) == [8]
        assert list(script.requests[2].context.tokens) == [*PROMPT, 4]
        assert drafter.num_fallbacks == 1


async def test_the_try_that_succeeds_closes_the_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(drafter_module, "time", SimpleNamespace(monotonic=lambda: now_s))
    script = Script([error(grpc.StatusCode.UNAVAILABLE), proposal(8), proposal(9)])
    breaker = Breaker(retry_s=5.0)
    async with attached(script, breaker=breaker) as drafter:
        assert (await drafter.propose(TokenSequence(PROMPT), Wanted(2))).tokens == ()
        # It was never there, so nothing was lost.
        assert drafter.num_fallbacks == 0
        now_s += 6.0
        assert list((await drafter.propose(TokenSequence(PROMPT), Wanted(2))).tokens) == [8]
        assert not breaker.is_open
        assert list((await drafter.propose(TokenSequence(PROMPT), Wanted(2))).tokens) == [9]


async def test_a_loss_that_somebody_else_has_found_counts_too() -> None:
    script = Script([proposal(7), proposal(8)])
    breaker = Breaker(retry_s=1000.0)
    sequence = TokenSequence(PROMPT)
    async with attached(script, breaker=breaker) as drafter:
        await drafter.propose(sequence, Wanted(2))
        breaker.disable("it is away")
        for _ in range(2):
            assert await drafter.propose(sequence.extend([4]), Wanted(2)) == Draft()
        assert drafter.num_fallbacks == 1
        breaker.enable()
        await drafter.propose(sequence, Wanted(2))
        assert list(script.requests[1].context.tokens) == [*PROMPT, 4, 4]
        assert drafter.num_fallbacks == 1


async def test_every_loss_of_a_draft_that_worked_counts() -> None:
    lost = error(grpc.StatusCode.UNAVAILABLE)
    script = Script([lost, proposal(7), lost, lost, proposal(7), lost])
    async with attached(script) as drafter:
        for _ in range(6):
            await drafter.propose(TokenSequence(PROMPT), Wanted(1))
        assert drafter.num_fallbacks == 2


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_TOO_LONG"),
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SAMPLING"),
        (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE"),
    ],
)
async def test_a_request_that_is_refused_costs_other_sessions_nothing(code: grpc.StatusCode, reason: str) -> None:
    script = Script([error(code, reason)])
    breaker = Breaker(retry_s=1000.0)
    async with attached(script, breaker=breaker) as drafter:
        assert (await drafter.propose(TokenSequence(PROMPT), Wanted(2))).tokens == ()
        assert not breaker.is_open
        # This session need not ask again: its sequence only grows.
        assert await drafter.propose(TokenSequence([*PROMPT, 4]), Wanted(2)) == Draft()
        assert len(script.requests) == 1


async def test_a_service_that_is_too_busy_is_asked_again_in_the_next_cycle(caplog: pytest.LogCaptureFixture) -> None:
    busy = error(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    script = Script([proposal(7), *[busy] * 5, proposal(8)])
    breaker = Breaker(retry_s=1000.0)
    async with attached(script, breaker=breaker) as drafter:
        drafts = [await drafter.propose(TokenSequence(PROMPT), Wanted(1)) for _ in range(7)]
        assert [list(draft.tokens) for draft in drafts] == [[7], [], [], [], [], [], [8]]
        assert {draft.drafter for draft in drafts} == {"remote"}
        assert drafter.problem == ""
        assert not breaker.is_open
        assert drafter.num_fallbacks == drafter.num_resyncs == 0
    assert own_messages(caplog) == []
    assert script.num_streams == 1


async def test_a_sequence_that_is_too_long_to_send_costs_other_sessions_nothing() -> None:
    breaker = Breaker(retry_s=1000.0)
    options = [("grpc.max_receive_message_length", 1000)]
    async with attached(Script([]), breaker=breaker, options=options) as drafter:
        for _ in range(2):
            assert (await drafter.propose(TokenSequence([1] * 1000), Wanted(2))).tokens == ()
        assert not breaker.is_open


async def test_a_stream_that_breaks_is_opened_again() -> None:
    def break_off(request: draft_pb2.ProposeRequest) -> Answer:
        raise ConnectionResetError

    script = Script([proposal(7), break_off, proposal(8)])
    async with attached(script) as drafter:
        tokens = [list((await drafter.propose(TokenSequence(PROMPT), Wanted(2))).tokens) for _ in range(3)]
    assert tokens == [[7], [], [8]]
    assert script.num_streams == 2


async def test_a_stream_that_somebody_cuts_on_the_way_costs_this_cycle_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As proxies do, where the target's answers take long."""
    cut = grpc.StatusCode.INTERNAL
    script = Script([proposal(7), cut, cut, proposal(8), cut, cut, cut])
    breaker = Breaker(retry_s=1000.0)
    async with attached(script, breaker=breaker) as drafter:
        tokens = [list((await drafter.propose(TokenSequence(PROMPT), Wanted(2))).tokens) for _ in range(6)]
        assert tokens == [[7], [], [], [8], [], []]
        assert drafter.num_fallbacks == drafter.num_resyncs == 0
        assert own_messages(caplog) == []
        assert (await drafter.propose(TokenSequence(PROMPT), Wanted(2))).tokens == ()
        assert (breaker.is_open, drafter.num_fallbacks) == (True, 1)


async def test_a_service_that_is_not_there() -> None:
    breaker = Breaker(retry_s=1000.0)
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        drafter = drafter_of(Service(channel, breaker, DraftPatience(PATIENCE_S)))
        assert (await drafter.propose(TokenSequence(PROMPT), Wanted(2))).tokens == ()
        assert breaker.is_open
        await drafter.close()
        assert drafter.problem


async def test_an_answer_after_the_verdict_that_the_draft_does_not_fit_is_not_used() -> None:
    breaker = Breaker(retry_s=0.0)

    def find_unfit(request: draft_pb2.ProposeRequest) -> Answer:
        breaker.disable("it does not fit")
        return proposal(8)

    script = Script([proposal(7), find_unfit, proposal(9)])
    async with attached(script, breaker=breaker) as drafter:
        drafts = [await drafter.propose(TokenSequence(PROMPT), Wanted(1)) for _ in range(3)]
        assert [list(draft.tokens) for draft in drafts] == [[7], [], []]
        assert breaker.is_disabled
        assert breaker.reason == drafter.problem == "it does not fit"
        assert len(script.requests) == 2


async def test_a_draft_with_other_tokens_than_were_compared_is_suspected_and_not_used() -> None:
    changed = error(grpc.StatusCode.FAILED_PRECONDITION, "TOKENIZER_CHANGED")
    script = Script([proposal(7), changed, proposal(8)])
    async with serviced(script) as service:
        drafter, compared = drafter_of(service), service.model
        for expected in ([7], []):
            assert list((await drafter.propose(TokenSequence(PROMPT), Wanted(1))).tokens) == expected
        assert service.suspicions == [(compared, "a message")]
        assert service.suspicions[0][0] is compared
        # It was compared, and fits: it gets the whole sequence.
        service.model = described(tokenizer_fingerprint="two")
        assert list((await drafter.propose(TokenSequence(PROMPT), Wanted(1))).tokens) == [8]
        await drafter.close()
    assert [request.tokenizer_fingerprint for request in script.requests] == ["one", "one", "two"]
    assert [request.context.cached_length for request in script.requests] == [0, 2, 0]


async def test_what_a_service_refuses_is_told() -> None:
    async with attached(Script([error(grpc.StatusCode.INVALID_ARGUMENT)])) as drafter:
        await drafter.propose(TokenSequence(PROMPT), Wanted(1))
        await drafter.propose(TokenSequence(PROMPT), Wanted(1))
        assert drafter.problem == "a message"


async def test_a_single_draft_that_is_missing_is_no_news() -> None:
    busy = error(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    script = Script([busy, proposal(7), busy, busy, proposal(8)])
    async with attached(script) as drafter:
        told = []
        for _ in range(5):
            await drafter.propose(TokenSequence(PROMPT), Wanted(1))
            told.append(drafter.problem)
    assert told == ["a message", "", "", "a message", ""]
