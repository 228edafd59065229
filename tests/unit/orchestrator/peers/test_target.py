"""A session of the target: broken streams are opened again, and the target that comes back is recognized."""

from types import SimpleNamespace

import grpc
import pytest

from orchestrator.peers import patient_session
from orchestrator.peers import target as target_module
from orchestrator.peers.patient_session import ContextFullError
from orchestrator.peers.target import TargetSession
from outrider.v1 import common_pb2, target_pb2
from services.frame.rpc.errors import ServiceError
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.peers.targets import LIMITS, MODEL, PROMPT, SAMPLING, UNAVAILABLE, attached, verdict
from tests.unit.orchestrator.scripted import Script
from tests.waiting import soon

QUOTE = target_pb2.Quote(version=3, row_ms=[0.5], tokens_per_ms=0.1, decode_ms=20.0)


def quoting(quote: target_pb2.Quote) -> target_pb2.VerifyBatchResult:
    return target_pb2.VerifyBatchResult(next_token=8, quote=quote)


async def _refused(session: TargetSession) -> ServiceError:
    with pytest.raises(ServiceError) as info:
        await session.verify(TokenSequence(PROMPT), [])
    return info.value


@pytest.mark.parametrize("num_log_probabilities", [None, 0, 5])
async def test_it_asks_for_a_verdict(num_log_probabilities: int | None) -> None:
    script = Script([verdict(1, 8)])
    async with attached(script, num_log_probabilities=num_log_probabilities) as session:
        verification = await session.verify(TokenSequence(PROMPT), [7, 9])
    assert (verification.result.num_accepted, verification.result.next_token) == (1, 8)
    assert verification.waited_s > 0
    (request,) = script.requests
    assert list(request.draft_tokens) == [7, 9]
    assert request.sampling == SAMPLING
    assert request.HasField("num_log_probabilities") == (num_log_probabilities is not None)
    assert request.num_log_probabilities == (num_log_probabilities or 0)


async def test_it_releases_its_session() -> None:
    script = Script([verdict(0, 8)])
    async with attached(script) as session:
        await session.verify(TokenSequence(PROMPT), [])
        await session.close()
        await soon(lambda: script.num_released == 1)


@pytest.mark.parametrize(
    "accident",
    [
        pytest.param(UNAVAILABLE, id="says that it is away"),
        pytest.param(ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "too much"), id="is too busy"),
    ],
)
async def test_a_target_that_is_away_is_waited_for(accident: ServiceError) -> None:
    script = Script([verdict(0, 4), accident, accident, verdict(0, 5)])
    sequence = TokenSequence(PROMPT)
    async with attached(script, [MODEL, MODEL]) as session:
        await session.verify(sequence, [])
        verification = await session.verify(sequence.extend([4]), [])
        assert verification.result.next_token == 5
        assert session.is_same_model
        assert session.num_resyncs == 1
    # It may have lost everything, so it is told everything.
    assert list(script.requests[3].context.tokens) == [*PROMPT, 4]
    assert [request.request_id for request in script.requests] == [1, 2, 3, 4]


async def test_whoever_answers_after_a_stream_has_ended_is_asked_who_it_is() -> None:
    other = common_pb2.ModelInfo(tokenizer_fingerprint="one", numerics_fingerprint="two", **LIMITS)
    script = Script([verdict(0, 4), verdict(0, 5), verdict(0, 6), verdict(0, 7)], ends_after=(1, 2))
    sequence = TokenSequence(PROMPT)
    async with attached(script, [MODEL, other]) as session:
        await session.verify(sequence, [])
        await soon(lambda: session._session.has_broken)
        await session.verify(sequence.extend([4]), [])
        assert session.is_same_model
        await soon(lambda: session._session.has_broken)
        await session.verify(sequence.extend([5]), [])
        assert not session.is_same_model
        await session.verify(sequence.extend([6]), [])
    assert script.num_streams == 3


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "CANCELLED", "UNAVAILABLE", "DEADLINE_EXCEEDED"])
async def test_a_stream_that_somebody_cuts_on_the_way_is_replayed(code: str) -> None:
    """As proxies do, each with a status of its own, where an answer takes long."""
    script = Script([verdict(0, 4), grpc.StatusCode[code], verdict(0, 5)])
    sequence = TokenSequence(PROMPT)
    async with attached(script, [MODEL]) as session:
        await session.verify(sequence, [])
        assert (await session.verify(sequence.extend([4]), [])).result.next_token == 5
        assert session.num_resyncs == 1
    assert script.num_streams == 2


async def test_a_stream_that_is_cut_again_and_again_is_a_target_that_is_away() -> None:
    script = Script([grpc.StatusCode.INTERNAL])
    async with attached(script, patience_s=0.0) as session:
        error = await _refused(session)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE")
    assert error.message.endswith("it was cut")


async def test_patience_begins_when_an_attempt_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that has fallen silent is found to be lost after half a minute."""
    now_s = 0.0

    async def fail_late(request: target_pb2.VerifyBatchRequest) -> ServiceError:
        nonlocal now_s
        now_s += 25.0
        return UNAVAILABLE

    for module in (patient_session, target_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now_s))
    script = Script([fail_late, UNAVAILABLE, verdict(0, 4), fail_late, fail_late])
    async with attached(script, [MODEL] * 3, patience_s=10.0) as session:
        assert (await session.verify(TokenSequence(PROMPT), [])).waited_s == 25.0
        # An attempt that takes so long in vain is one that failed for so long.
        error = await _refused(session)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE")


async def test_patience_has_an_end() -> None:
    script = Script([UNAVAILABLE])
    async with attached(script, patience_s=0.0) as session:
        error = await _refused(session)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE")
    assert error.retry_after_s
    assert "it is stopping" in error.message


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SAMPLING"),
        (grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_TOO_LONG"),
        (grpc.StatusCode.INTERNAL, "DECODE_FAILED"),
    ],
)
async def test_a_refusal_is_passed_on(code: grpc.StatusCode, reason: str) -> None:
    script = Script([ServiceError(code, reason, "a message")])
    async with attached(script) as session:
        error = await _refused(session)
    assert (error.code, error.reason, error.message) == (code, reason, "a message")
    assert len(script.requests) == 1


async def test_another_tokenizer_ends_the_generation() -> None:
    other = common_pb2.ModelInfo(tokenizer_fingerprint="two", numerics_fingerprint="one", **LIMITS)
    script = Script([UNAVAILABLE])
    async with attached(script, [other]) as session:
        error = await _refused(session)
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "TARGET_REPLACED")
    assert len(script.requests) == 1


async def test_other_numerics_are_told() -> None:
    other = common_pb2.ModelInfo(tokenizer_fingerprint="one", numerics_fingerprint="two", **LIMITS)
    script = Script([UNAVAILABLE, verdict(0, 4)])
    async with attached(script, [other]) as session:
        await session.verify(TokenSequence(PROMPT), [])
        assert not session.is_same_model


async def test_other_numerics_are_refused_where_exactness_is_demanded() -> None:
    other = common_pb2.ModelInfo(tokenizer_fingerprint="one", numerics_fingerprint="two", **LIMITS)
    script = Script([UNAVAILABLE])
    async with attached(script, [other], require_exact=True) as session:
        error = await _refused(session)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "EXACT_UNAVAILABLE")


def too_long(reason: str, most: int) -> ServiceError:
    """As a service refuses what is longer than it takes."""
    return ServiceError(grpc.StatusCode.OUT_OF_RANGE, reason, "a message", metadata={"most": str(most)})


async def test_a_target_that_takes_shorter_drafts_gets_the_beginning() -> None:
    """It has taken another's place, in a failover perhaps, and tells by itself what it takes."""
    script = Script([verdict(0, 4), too_long("DRAFT_TOO_LONG", 2), verdict(2, 7), verdict(0, 8)])
    sequence = TokenSequence(PROMPT)
    async with attached(script) as session:
        assert (await session.verify(sequence, [4, 5, 6])).num_verified == 3
        assert (await session.verify(sequence.extend([4]), [5, 6, 9, 9])).num_verified == 2
        assert session.limits.max_draft_tokens == 2
        await session.verify(sequence.extend([5, 6, 7]), [])
    assert [list(request.draft_tokens) for request in script.requests] == [[4, 5, 6], [5, 6, 9, 9], [5, 6], []]


async def test_a_target_that_comes_back_smaller_is_asked_for_no_more_than_it_takes() -> None:
    smaller = common_pb2.ModelInfo()
    smaller.CopyFrom(MODEL)
    smaller.max_draft_tokens, smaller.context_length = 3, 6
    script = Script([UNAVAILABLE, verdict(0, 4)])
    async with attached(script, [smaller]) as session:
        # Of six tokens, three are there, and the target's own comes last.
        assert (await session.verify(TokenSequence(PROMPT), [5, 6, 7, 8])).num_verified == 2
    assert script.requests[-1].draft_tokens == [5, 6]


@pytest.mark.parametrize(("most", "draft_tokens"), [(5, [7]), (4, [])])
async def test_a_target_that_holds_less_gets_what_still_fits(most: int, draft_tokens: list[int]) -> None:
    script = Script([too_long("CONTEXT_TOO_LONG", most), verdict(0, 4)])
    async with attached(script) as session:
        assert (await session.verify(TokenSequence(PROMPT), [7, 8, 9])).num_verified == len(draft_tokens)
    assert script.requests[-1].draft_tokens == draft_tokens


async def test_a_sequence_as_long_as_a_context_is_at_its_end() -> None:
    script = Script([too_long("CONTEXT_TOO_LONG", 3)])
    async with attached(script) as session:
        with pytest.raises(ContextFullError, match="the prompt has 3 tokens, the target holds 3 now"):
            await session.verify(TokenSequence(PROMPT), [7])


@pytest.mark.parametrize("most", ["", "many", "100"])
async def test_a_refusal_that_names_no_lower_limit_is_passed_on(most: str) -> None:
    error = ServiceError(grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_TOO_LONG", "a message", metadata={"most": most})
    async with attached(Script([error])) as session:
        assert (await _refused(session)).message == "a message"


async def test_a_quote_holds_until_there_is_another() -> None:
    script = Script([quoting(QUOTE), verdict(0, 8), quoting(target_pb2.Quote(version=4))])
    async with attached(script) as session:
        quotes = [(await session.verify(TokenSequence(PROMPT), [], [])).quote for _ in range(3)]
    assert [quote and quote.version for quote in quotes] == [3, 3, 4]
    assert [request.quote_version for request in script.requests] == [0, 3, 3]


async def test_the_quote_of_a_target_that_was_replaced_is_forgotten() -> None:
    """The one that has taken its place knows no quotes."""
    script = Script([quoting(QUOTE), UNAVAILABLE, verdict(0, 8)])
    async with attached(script, [MODEL]) as session:
        first = await session.verify(TokenSequence(PROMPT), [], [])
        second = await session.verify(TokenSequence(PROMPT), [], [])
    assert first.quote == QUOTE
    assert second.quote is None
    assert script.requests[-1].quote_version == 0


@pytest.mark.parametrize("wants_quotes", [True, False])
async def test_a_quote_without_chances_comes_where_it_is_wanted(wants_quotes: bool) -> None:
    script = Script([quoting(QUOTE), verdict(0, 5)])
    async with attached(script, wants_quotes=wants_quotes) as session:
        for _ in range(2):
            await session.verify(TokenSequence(PROMPT), [])
    asked = [request.quote_version if request.HasField("quote_version") else None for request in script.requests]
    assert asked == ([0, 3] if wants_quotes else [None, None])
    assert not any(request.draft_chance for request in script.requests)
