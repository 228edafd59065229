"""A session of the target that has a prompt scored."""

import grpc
import pytest

from orchestrator.peers.patient_session import ContextFullError
from outrider.v1 import common_pb2, target_pb2
from services.frame.rpc.errors import ServiceError
from services.frame.rpc.limits import MAX_SCORED_TOKENS
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.peers.targets import LIMITS, PROMPT, UNAVAILABLE, attached, verdict
from tests.unit.orchestrator.scripted import Script


def scored(request: target_pb2.VerifyBatchRequest) -> target_pb2.VerifyBatchResult:
    tokens = request.context.tokens[-request.num_scored_tokens :]
    told = [common_pb2.LogProbabilities(chosen=common_pb2.TokenLogProbability(token=token)) for token in tokens]
    return target_pb2.VerifyBatchResult(next_token=8, scored_tokens=told)


async def test_a_long_prompt_is_scored_in_parts_and_gone_on_from() -> None:
    """Each part sends the last token of the one before again, and after the last one only that is evaluated."""
    prompt = list(range(1, 2 * MAX_SCORED_TOKENS + 20))
    script = Script([scored, scored, scored, verdict(0, 4)])
    model = common_pb2.ModelInfo(context_length=1000, max_draft_tokens=16)
    async with attached(script, model=model, num_log_probabilities=7) as session:
        scores = [each async for part in session.score(TokenSequence(prompt), 5) for each in part.result.scored_tokens]
        await session.verify(TokenSequence(prompt), [])
    assert [each.chosen.token for each in scores] == prompt[1:]
    parts, last = script.requests[:3], script.requests[3]
    assert [request.num_scored_tokens for request in parts] == [MAX_SCORED_TOKENS, MAX_SCORED_TOKENS, 18]
    assert [request.context.cached_length for request in parts] == [0, MAX_SCORED_TOKENS, 2 * MAX_SCORED_TOKENS]
    assert [len(request.context.tokens) for request in parts] == [MAX_SCORED_TOKENS + 1, MAX_SCORED_TOKENS + 1, 19]
    assert all(request.num_log_probabilities == 5 and not request.draft_tokens for request in parts)
    assert (last.num_scored_tokens, last.num_log_probabilities) == (0, 7)
    assert list(last.context.tokens) == prompt[-1:]


async def test_a_part_that_was_lost_is_scored_again() -> None:
    """By whoever is the target then, with the whole prompt up to there."""
    prompt = list(range(1, MAX_SCORED_TOKENS + 20))
    script = Script([scored, UNAVAILABLE, scored])
    model = common_pb2.ModelInfo(context_length=1000, max_draft_tokens=16)
    async with attached(script, [model], model=model) as session:
        scores = [each async for part in session.score(TokenSequence(prompt), 0) for each in part.result.scored_tokens]
    assert [each.chosen.token for each in scores] == prompt[1:]
    assert list(script.requests[2].context.tokens) == prompt
    assert script.requests[2].num_scored_tokens == 18


async def test_a_target_that_scores_nothing_is_told_of() -> None:
    """One of an earlier version answers as if nobody had asked."""
    async with attached(Script([verdict(0, 4)])) as session:
        with pytest.raises(ServiceError) as info:
            async for _ in session.score(TokenSequence(PROMPT), 0):
                pass
    assert (info.value.code, info.value.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")


async def test_a_prompt_that_is_too_long_for_the_target_is_not_scored() -> None:
    async with attached(Script([])) as session:
        with pytest.raises(ContextFullError):
            async for _ in session.score(TokenSequence([1] * (LIMITS["context_length"] + 1)), 0):
                pass
