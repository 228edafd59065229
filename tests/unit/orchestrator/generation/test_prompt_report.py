"""The tokens of a prompt as a client is told of them."""

from collections.abc import AsyncGenerator, Sequence

import pytest

from orchestrator.generation.cycle import FixedLength
from orchestrator.generation.generation import Generation
from orchestrator.generation.prompt_report import PromptReporter
from orchestrator.generation.text import TextStream
from orchestrator.peers.target import Verification
from outrider.v1 import common_pb2, generation_pb2, target_pb2
from services.frame.telemetry import Telemetry
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.fakes import FakeDrafter, FakeTarget, empty

TOKEN_BYTES = [b"a", b"b", b"\xc3", b"\xa4", b"\xf0"]


def score(token: int) -> common_pb2.LogProbabilities:
    chosen = common_pb2.TokenLogProbability(token=token, log_probability=-0.5 - token)
    return common_pb2.LogProbabilities(chosen=chosen)


def test_parts_join_to_the_prompt() -> None:
    prompt = [0, 2, 3, 1, 2]
    reporter = PromptReporter(prompt, TOKEN_BYTES)
    reports = [reporter.report([score(2)]), reporter.report([score(3), score(1)]), reporter.report([score(2)])]
    assert [len(report.tokens) for report in reports] == [2, 2, 1]
    tokens = [token for report in reports for token in report.tokens]
    assert [token.token for token in tokens] == prompt
    # A character split across tokens is told with its end, one that never ends with the last token.
    assert [token.text for token in tokens] == ["a", "", "ä", "b", "\N{REPLACEMENT CHARACTER}"]
    assert not tokens[0].HasField("log_probabilities")
    assert [token.log_probabilities for token in tokens[1:]] == [score(token) for token in prompt[1:]]


async def scorings(*parts: Sequence[int], exact: bool = True) -> AsyncGenerator[Verification, None]:
    for index, part in enumerate(parts):
        result = target_pb2.VerifyBatchResult(scored_tokens=map(score, part), exact=exact)
        yield Verification(result, 0, waited_s=1.0, computed_s=0.5, queued_s=0.25, num_cached_tokens=3 * index)


def generation_of(prompt: Sequence[int], max_tokens: int, *, is_exact: bool = True) -> Generation:
    return Generation(
        TokenSequence(prompt),
        FakeTarget(is_exact=is_exact, num_cached_tokens=4),
        FakeDrafter(empty),
        TextStream([b"x"] * 13, []),
        policy=FixedLength(0),
        max_tokens=max_tokens,
        context_length=1000,
        telemetry=Telemetry.off(),
    )


@pytest.mark.parametrize("max_tokens", [0, 2])
async def test_a_generation_whose_prompt_is_scored(max_tokens: int) -> None:
    """Its times count, and what was cached before; where no text is wanted none is generated."""
    generation = generation_of([0, 2, 3, 1], max_tokens)
    reports = [report async for report in generation.prompt_reports(scorings([2, 3], [1]), TOKEN_BYTES)]
    assert [[token.token for token in report.tokens] for report in reports] == [[0, 2, 3], [1]]
    chunks = [chunk async for chunk in generation.chunks()]
    summary = generation.summary(1, "")
    assert len(chunks) == summary.usage.num_generated_tokens == summary.speculation.num_cycles == max_tokens
    assert summary.finish_reason == generation_pb2.FINISH_REASON_MAX_TOKENS
    assert summary.usage.num_prompt_tokens == 4
    assert summary.usage.num_cached_prompt_tokens == 0
    assert summary.exact
    assert summary.timings.target_ms == 2000 + 500 * max_tokens
    assert (summary.timings.first_token_ms > 0) == (max_tokens > 0)


async def test_a_prompt_of_one_token_has_nothing_to_score() -> None:
    generation = generation_of([1], 0)
    reports = [report async for report in generation.prompt_reports(scorings(), TOKEN_BYTES)]
    assert reports == [
        generation_pb2.PromptReport(tokens=[generation_pb2.PromptToken(token=1, text="b")]),
    ]


async def test_scores_that_are_not_exact_make_an_answer_that_is_not() -> None:
    generation = generation_of([0, 2], 2)
    async for _ in generation.prompt_reports(scorings([2], exact=False), TOKEN_BYTES):
        pass
    async for _ in generation.chunks():
        pass
    assert not generation.summary(1, "").exact
