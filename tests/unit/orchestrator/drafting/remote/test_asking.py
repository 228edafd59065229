"""What the remote drafter asks its service for, and what it makes of the answer."""

import grpc
import pytest

from orchestrator.drafting.drafter import Breaker, Draft, Wanted
from orchestrator.drafting.patience import DraftPatience
from services.frame.rpc.errors import ServiceError
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.drafting.remote.drafters import (
    PROMPT,
    SAMPLING,
    STAND_IN,
    VOCABULARY_SIZE,
    attached,
    described,
    drafter_of,
    proposal,
    serviced,
)
from tests.unit.orchestrator.scripted import Script
from tests.waiting import soon


async def test_it_asks_for_what_the_cycle_wants() -> None:
    script = Script([proposal(7, 8)])
    async with attached(script, patience=DraftPatience(20.0), min_joint_confidence=0.25) as drafter:
        draft = await drafter.propose(TokenSequence(PROMPT), Wanted(4))
    assert list(draft.tokens) == [7, 8]
    assert draft.drafter == "remote"
    assert draft.waited_s > 0
    (request,) = script.requests
    assert request.num_draft_tokens == 4
    assert request.min_joint_confidence == 0.25
    assert request.sampling == SAMPLING
    assert request.timeout_ms == 20_000
    assert (request.context.session_id, list(request.context.tokens)) == ("the session", PROMPT)


async def test_nothing_is_asked_where_nothing_is_wanted() -> None:
    script = Script([])
    async with attached(script) as drafter:
        assert await drafter.propose(TokenSequence(PROMPT), Wanted(0)) == Draft()
        assert await drafter.propose(TokenSequence(PROMPT), Wanted(-1)) == Draft()
    assert script.num_streams == 0


async def test_it_asks_for_no_more_than_the_service_proposes() -> None:
    """Another service with another limit may take its place at any time, or one that proposes nothing."""
    script = Script([proposal(7), proposal(8)])
    async with serviced(script) as service:
        drafter = drafter_of(service)
        service.model = described(max_draft_tokens=3)
        assert list((await drafter.propose(TokenSequence(PROMPT), Wanted(4))).tokens) == [7]
        service.model = described(max_draft_tokens=0)
        assert await drafter.propose(TokenSequence(PROMPT), Wanted(4)) == Draft()
        assert drafter.problem == "the draft service is set to propose no tokens"
        service.model = described(max_draft_tokens=5)
        assert list((await drafter.propose(TokenSequence(PROMPT), Wanted(4))).tokens) == [8]
        assert drafter.problem == ""
        await drafter.close()
    assert [request.num_draft_tokens for request in script.requests] == [3, 4]


async def test_a_service_that_says_the_same_of_itself_again_is_the_same() -> None:
    """It is described anew whenever it was away; what it held it may hold still."""
    script = Script([proposal(7), proposal(8)])
    async with serviced(script) as service:
        drafter = drafter_of(service)
        await drafter.propose(TokenSequence(PROMPT), Wanted(1))
        service.model = described()
        await drafter.propose(TokenSequence([*PROMPT, 7]), Wanted(1))
        assert drafter.num_resyncs == 0
        await drafter.close()
    assert [request.context.cached_length for request in script.requests] == [0, len(PROMPT)]


@pytest.mark.parametrize(("most", "num_asked"), [("2", 2), ("", 8)])
async def test_a_service_that_takes_less_than_it_told_is_asked_again(most: str, num_asked: int) -> None:
    """It has just been replaced, and may say itself what it takes."""
    refusal = ServiceError(grpc.StatusCode.OUT_OF_RANGE, "DRAFT_TOO_LONG", "a message", metadata={"most": most})
    script = Script([proposal(7), refusal, proposal(8)])
    async with attached(script) as drafter:
        drafts = [await drafter.propose(TokenSequence(PROMPT), Wanted(8)) for _ in range(3)]
        assert drafter.num_fallbacks == (not most)
    assert [list(draft.tokens) for draft in drafts] == [[7], [], [8]]
    assert [request.num_draft_tokens for request in script.requests] == [8, 8, num_asked]


async def test_an_empty_draft_is_the_services_answer_too() -> None:
    """It was not sure enough of a single token."""
    async with attached(Script([proposal()])) as drafter:
        draft = await drafter.propose(TokenSequence(PROMPT), Wanted(4))
        assert (list(draft.tokens), draft.drafter) == ([], "remote")
        assert drafter.num_fallbacks == 0


async def test_it_releases_its_session() -> None:
    script = Script([proposal(7)])
    async with attached(script) as drafter:
        await drafter.propose(TokenSequence(PROMPT), Wanted(1))
        await drafter.close()
        await soon(lambda: script.num_released == 1)


async def test_it_never_proposes_a_token_that_the_target_lacks() -> None:
    script = Script([proposal(7, VOCABULARY_SIZE, 8), proposal(VOCABULARY_SIZE - 1)])
    async with attached(script) as drafter:
        assert list((await drafter.propose(TokenSequence(PROMPT), Wanted(4))).tokens) == [7]
        assert list((await drafter.propose(TokenSequence(PROMPT), Wanted(4))).tokens) == [VOCABULARY_SIZE - 1]


async def test_a_draft_whose_context_is_full_was_not_lost() -> None:
    script = Script([proposal(7), proposal(8)])
    sequence = TokenSequence(PROMPT)
    breaker = Breaker(retry_s=1000.0)
    async with serviced(script, breaker=breaker) as service:
        service.model = described(context_length=4)
        drafter = drafter_of(service)
        for expected in ([7], [8], []):
            assert list((await drafter.propose(sequence, Wanted(4))).tokens) == expected
            sequence.extend([4])
        assert drafter.problem == "the context of the draft is full: it holds 4 tokens"
        assert drafter.num_fallbacks == 0
        assert not breaker.is_open
        await drafter.close()
    # Up to the last position: the last draft token is never evaluated there.
    assert [request.num_draft_tokens for request in script.requests] == [2, 1]


async def test_a_draft_that_holds_less_than_it_told_was_not_lost() -> None:
    refusal = ServiceError(grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_TOO_LONG", "a message", metadata={"most": "3"})
    script = Script([refusal, proposal(7)])
    async with attached(script) as drafter:
        assert (await drafter.propose(TokenSequence(PROMPT), Wanted(4))).tokens == ()
        assert list((await drafter.propose(TokenSequence(PROMPT), Wanted(4))).tokens) == [7]
        assert (await drafter.propose(TokenSequence([*PROMPT, 4]), Wanted(4))) == Draft()
        assert drafter.problem == "the context of the draft is full: it holds 3 tokens"
        assert drafter.num_fallbacks == 0


async def test_a_draft_is_asked_with_stand_ins_for_what_it_lacks() -> None:
    script = Script([proposal(7), proposal(8)])
    async with serviced(script) as service:
        service.model = described(vocabulary_size=50)
        drafter = drafter_of(service, logit_bias={3: 1.0, 60: 1.0})
        sequence = TokenSequence([60, 1, 99])
        await drafter.propose(sequence, Wanted(1))
        await drafter.propose(sequence.extend([7, 50]), Wanted(1))
        await drafter.close()
    first, second = script.requests
    assert list(first.context.tokens) == [STAND_IN, 1, STAND_IN]
    assert second.context.cached_length == 3
    assert list(second.context.tokens) == [7, STAND_IN]
    assert dict(first.sampling.logit_bias) == {3: 1.0}
