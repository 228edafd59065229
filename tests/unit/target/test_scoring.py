"""Log-probabilities of tokens of the context: what they are, and in which rows they are evaluated."""

import asyncio
import math
from typing import Any

import grpc
import pytest

from outrider.v1 import common_pb2, target_pb2
from services.frame.rpc.errors import ServiceError
from services.frame.rpc.limits import MAX_LOG_PROBABILITIES, MAX_SCORED_TOKENS
from services.session.sequence import TokenSequence
from services.target.servicer import TargetServicer
from tests.unit.engine.fakes import FakeRuntime, fake_logits, true_token
from tests.unit.engine.works import at_the_gate, blocked, running
from tests.unit.target.fakes import MAX_DRAFT_TOKENS, fake_target
from tests.waiting import PATIENCE_S, soon

# Handlers never look at the call.
ANY_CALL: Any = None
PROMPT = [(7 * index) % 13 for index in range(30)]
EXACT = common_pb2.EXACT_MODE_ROW_MULTIPLE


def request(
    num_scored_tokens: int,
    tokens: list[int] | None = None,
    *,
    request_id: int = 1,
    session_id: str = "a",
    cached_length: int = 0,
    **fields: Any,
) -> target_pb2.VerifyBatchRequest:
    sequence = TokenSequence(PROMPT if tokens is None else tokens)
    context = common_pb2.Context(
        session_id=session_id,
        cached_length=cached_length,
        cached_digest=sequence.digests[cached_length] if cached_length else b"",
        tokens=sequence.tokens[cached_length:],
    )
    return target_pb2.VerifyBatchRequest(
        request_id=request_id, context=context, num_scored_tokens=num_scored_tokens, **fields
    )


async def answer(target: TargetServicer, message: target_pb2.VerifyBatchRequest) -> target_pb2.VerifyBatchResponse:
    async with asyncio.timeout(PATIENCE_S):
        return await target.VerifyBatch(message, ANY_CALL)


def check_scores(result: target_pb2.VerifyBatchResult, tokens: list[int], num_scored: int, num_top: int) -> None:
    """Each is that of its token, given all before it."""
    assert len(result.scored_tokens) == num_scored
    for position, told in enumerate(result.scored_tokens, start=len(tokens) - num_scored):
        logits = fake_logits(tuple(tokens[:position])).astype(float)
        expected = logits - math.log(sum(map(math.exp, logits)))
        assert told.chosen.token == tokens[position]
        assert told.chosen.log_probability == pytest.approx(expected[tokens[position]], abs=1e-5)
        assert [top.token for top in told.top] == list((-logits).argsort()[:num_top])


def outputs(runtime: FakeRuntime) -> list[int]:
    """Rows with logits of each decode."""
    return [segment.num_outputs for batch in runtime.batches for segment in batch]


@pytest.mark.parametrize("num_scored", [1, 2, 17, len(PROMPT) - 1])
async def test_tokens_are_scored_by_the_rows_before_them(num_scored: int) -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        reply = await answer(fake_target(engine, runtime), request(num_scored, num_log_probabilities=3))
    check_scores(reply.result, PROMPT, num_scored, 3)
    assert (reply.result.num_accepted, reply.result.next_token) == (0, true_token(PROMPT))
    assert reply.held_length == len(PROMPT)
    assert sum(outputs(runtime)) == num_scored + 1


async def test_no_more_rows_have_logits_at_a_time_than_a_draft_has_where_that_is_exact() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        reply = await answer(fake_target(engine, runtime, EXACT), request(len(PROMPT) - 1))
    check_scores(reply.result, PROMPT, len(PROMPT) - 1, 0)
    assert reply.result.exact
    assert outputs(runtime) == [MAX_DRAFT_TOKENS + 1] * 5


async def test_what_is_cached_is_used_up_to_the_row_before_the_first_that_is_scored() -> None:
    """Of the session itself, which holds more than it names; logits are not kept."""
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        target = fake_target(engine, runtime)
        await answer(target, request(0))
        reply = await answer(target, request(5, request_id=2, cached_length=10))
    check_scores(reply.result, PROMPT, 5, 0)
    assert reply.timings.num_cached_tokens == len(PROMPT) - 6
    assert [len(segment.tokens) for segment in runtime.batches[-1]] == [6]


async def test_a_prompt_of_another_session_is_taken_over_up_to_there() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        target = fake_target(engine, runtime)
        await answer(target, request(0))
        reply = await answer(target, request(5, session_id="b"))
    check_scores(reply.result, PROMPT, 5, 0)
    assert reply.timings.num_cached_tokens == len(PROMPT) - 6


async def test_a_long_prompt_is_scored_part_by_part() -> None:
    """As a caller does: each part begins with the last token of the one before, whose row is evaluated again."""
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        target = fake_target(engine, runtime)
        scores: list[common_pb2.LogProbabilities] = []
        for number, (start, end) in enumerate(((0, 11), (10, 21), (20, 30)), start=1):
            message = request(end - start - 1, PROMPT[:end], request_id=number, cached_length=start)
            scores += (await answer(target, message)).result.scored_tokens
        whole = (await answer(target, request(29, request_id=4))).result
    assert scores == list(whole.scored_tokens)


async def test_a_prefix_that_is_not_held_is_a_miss() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        reply = await answer(fake_target(engine, runtime), request(5, cached_length=10))
    assert reply.WhichOneof("outcome") == "cache_miss"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        pytest.param(request(3, draft_tokens=[1]), "draft_tokens", id="with a draft"),
        pytest.param(request(len(PROMPT)), "num_scored_tokens", id="as many as there are"),
        pytest.param(request(20, cached_length=10), "num_scored_tokens", id="beyond what is sent"),
        pytest.param(
            request(MAX_SCORED_TOKENS + 1, [1] * (MAX_SCORED_TOKENS + 2)), "num_scored_tokens", id="more than fit"
        ),
    ],
)
async def test_what_cannot_be_scored_is_refused(message: target_pb2.VerifyBatchRequest, field: str) -> None:
    runtime = FakeRuntime(context_length=256)
    async with running(runtime) as engine:
        with pytest.raises(ServiceError) as info:
            await answer(fake_target(engine, runtime), message)
    assert (info.value.code, info.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert [violation.field for violation in info.value.field_violations] == [field]


def test_the_largest_answer_fits_into_the_smallest_message() -> None:
    token = common_pb2.TokenLogProbability(token=(1 << 20) - 1, log_probability=-1.0)
    told = common_pb2.LogProbabilities(chosen=token, top=[token] * MAX_LOG_PROBABILITIES)
    result = target_pb2.VerifyBatchResult(scored_tokens=[told] * MAX_SCORED_TOKENS)
    assert result.ByteSize() < 32 * 1024


async def test_verifications_of_others_go_on_between_the_parts() -> None:
    runtime = FakeRuntime(context_length=256)
    prompt = [(5 * index) % 13 for index in range(200)]
    async with running(runtime, prompt_rows=8) as engine:
        target = fake_target(engine, runtime)
        async with blocked(runtime):
            scoring = asyncio.create_task(answer(target, request(100, prompt)))
            await at_the_gate(runtime)
            other = asyncio.create_task(answer(target, request(0, [1, 2, 3], session_id="b")))
            await soon(lambda: engine.num_unanswered == 2)
        assert (await other).result.next_token == true_token([1, 2, 3])
        check_scores((await scoring).result, prompt, 100, 0)
    slots = [segment.slot for batch in runtime.batches for segment in batch]
    assert 0 < slots.index(1) < len(slots) - 1
