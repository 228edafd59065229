"""One generation: chunks, origins, why it ended, and what the summary says."""

from typing import Any

import pytest

from orchestrator.generation.answer import Answer, AnswerParts
from orchestrator.generation.cycle import FixedLength
from orchestrator.generation.generation import Generation, draw_seed
from orchestrator.generation.text import TextStream
from outrider.v1 import generation_pb2, target_pb2
from services.frame.telemetry import Telemetry
from services.session.client import Limits
from services.session.sequence import TokenSequence
from tests.unit.orchestrator.fakes import (
    END,
    NUM_TOKENS,
    FakeDrafter,
    FakeTarget,
    Strategy,
    empty,
    erratic,
    first_right,
    perfect,
    plain_text,
    wrong,
)
from tests.unit.orchestrator.generation.tool_answers import HERMES, MISTRAL, Whole, answer_of

PROMPT = [3, 1, 2]
# Every token is a letter, the end is silent.
TOKEN_BYTES = [bytes([ord("a") + token]) for token in range(NUM_TOKENS)] + [b""]


def text_of(tokens: list[int]) -> str:
    return b"".join(TOKEN_BYTES[token] for token in tokens).decode()


async def generate(
    strategy: Strategy = empty,
    *,
    target: FakeTarget | None = None,
    drafter: FakeDrafter | None = None,
    token_bytes: list[bytes] | None = None,
    stop: tuple[str, ...] = (),
    max_tokens: int = 8,
    context_length: int = 1000,
    is_same_target: bool = True,
    stop_tokens: tuple[int, ...] = (),
    answer: Answer | None = None,
) -> tuple[list[generation_pb2.GenerateChunk], generation_pb2.GenerateSummary]:
    generation = Generation(
        TokenSequence(PROMPT),
        target or FakeTarget(),
        drafter or FakeDrafter(strategy),
        TextStream(token_bytes or TOKEN_BYTES, stop),
        policy=FixedLength(3),
        max_tokens=max_tokens,
        context_length=context_length,
        telemetry=Telemetry.off(),
        stop_tokens=stop_tokens,
        answer=answer,
    )
    chunks = [chunk async for chunk in generation.chunks()]
    return chunks, generation.summary(17, "a trace", is_same_target=is_same_target)


def tokens_of(chunks: list[generation_pb2.GenerateChunk]) -> list[int]:
    return [token.token for chunk in chunks for token in chunk.tokens]


@pytest.mark.parametrize("strategy", [empty, perfect, wrong, first_right, erratic])
async def test_chunks_tell_tokens_and_text(strategy: Strategy) -> None:
    chunks, summary = await generate(strategy, max_tokens=20)
    assert tokens_of(chunks) == plain_text(PROMPT, 20)
    assert "".join(chunk.text for chunk in chunks) == text_of(plain_text(PROMPT, 20))
    for chunk in chunks:
        assert chunk.text == "".join(token.text for token in chunk.tokens)
    assert summary.usage == generation_pb2.Usage(num_prompt_tokens=3, num_generated_tokens=20)
    assert summary.finish_reason == generation_pb2.FINISH_REASON_MAX_TOKENS


async def test_a_chunk_is_a_cycle() -> None:
    chunks, summary = await generate(perfect)
    assert [len(chunk.tokens) for chunk in chunks] == [4, 4]
    accepted, bonus = generation_pb2.TOKEN_ORIGIN_ACCEPTED, generation_pb2.TOKEN_ORIGIN_BONUS
    assert [token.origin for token in chunks[0].tokens] == [accepted, accepted, accepted, bonus]
    assert summary.speculation.num_cycles == 2


async def test_the_summary_adds_up() -> None:
    chunks, summary = await generate(erratic, max_tokens=30)
    counts = summary.speculation
    origins = [token.origin for chunk in chunks for token in chunk.tokens]
    assert counts.num_cycles == len(chunks)
    assert counts.num_accepted_tokens == origins.count(generation_pb2.TOKEN_ORIGIN_ACCEPTED)
    assert counts.num_accepted_tokens + counts.num_cycles == summary.usage.num_generated_tokens == 30
    assert sum(counts.num_accepted_per_position) == counts.num_accepted_tokens
    assert summary.timings.target_ms == 500 * counts.num_cycles
    assert summary.timings.target_computed_ms == 250 * counts.num_cycles
    assert summary.timings.draft_ms == 125 * counts.num_cycles
    assert summary.timings.draft_computed_ms == 62.5 * counts.num_cycles
    assert 0 < summary.timings.first_token_ms <= summary.timings.total_ms
    assert (summary.seed, summary.trace_id) == (17, "a trace")


async def test_what_target_and_drafter_went_through_is_told() -> None:
    target, drafter = FakeTarget(), FakeDrafter(perfect)
    target.num_resyncs, drafter.num_resyncs, drafter.num_fallbacks = 2, 3, 4
    _, summary = await generate(target=target, drafter=drafter)
    assert summary.speculation.num_resyncs == 5
    assert summary.speculation.num_fallbacks == 4


@pytest.mark.parametrize("strategy", [empty, perfect])
async def test_the_model_ends_it(strategy: Strategy) -> None:
    chunks, summary = await generate(strategy, target=FakeTarget(end_at=len(PROMPT) + 5))
    assert tokens_of(chunks) == [*plain_text(PROMPT, 5), END]
    assert summary.finish_reason == generation_pb2.FINISH_REASON_END_OF_GENERATION
    assert summary.usage.num_generated_tokens == 6


async def test_the_model_ends_it_with_the_last_token_allowed() -> None:
    _, summary = await generate(target=FakeTarget(end_at=len(PROMPT) + 7), max_tokens=8)
    assert summary.finish_reason == generation_pb2.FINISH_REASON_END_OF_GENERATION
    assert summary.usage.num_generated_tokens == 8


@pytest.mark.parametrize("strategy", [empty, perfect, wrong])
async def test_the_context_is_full(strategy: Strategy) -> None:
    chunks, summary = await generate(strategy, max_tokens=8, context_length=len(PROMPT) + 7)
    assert tokens_of(chunks) == plain_text(PROMPT, 7)
    assert summary.finish_reason == generation_pb2.FINISH_REASON_CONTEXT_FULL


async def test_a_context_that_is_just_large_enough_is_not_what_ends_it() -> None:
    _, summary = await generate(max_tokens=8, context_length=len(PROMPT) + 8)
    assert summary.finish_reason == generation_pb2.FINISH_REASON_MAX_TOKENS


@pytest.mark.parametrize("strategy", [empty, perfect, wrong])
async def test_a_stop_string_ends_it_before_its_first_character(strategy: Strategy) -> None:
    text = text_of(plain_text(PROMPT, 20))
    stop = text[9:12]
    chunks, summary = await generate(strategy, stop=("no such text", stop), max_tokens=20)
    assert "".join(chunk.text for chunk in chunks) == text[: text.index(stop)]
    # The tokens of the stop string were generated, what the draft had beyond it was not.
    assert tokens_of(chunks) == plain_text(PROMPT, text.index(stop) + len(stop))
    assert summary.finish_reason == generation_pb2.FINISH_REASON_STOP
    assert summary.usage.num_generated_tokens == text.index(stop) + len(stop)
    assert summary.stop == stop


async def test_text_that_was_held_back_comes_at_the_end() -> None:
    text = text_of(plain_text(PROMPT, 8))
    chunks, _ = await generate(stop=(text[-2:] + "never",))
    assert "".join(chunk.text for chunk in chunks) == text
    assert chunks[-1].text == text[-2:]
    assert not chunks[-1].tokens


async def test_a_character_that_never_ends_is_told_at_the_end() -> None:
    chunks, _ = await generate(token_bytes=[b"\xf0"] * (NUM_TOKENS + 1), max_tokens=1)
    assert [chunk.text for chunk in chunks] == ["", "\N{REPLACEMENT CHARACTER}"]
    assert tokens_of(chunks) == plain_text(PROMPT, 1)


@pytest.mark.parametrize(
    ("is_exact", "is_same_target", "expected"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
async def test_exact_is_said_only_of_what_is(is_exact: bool, is_same_target: bool, expected: bool) -> None:
    _, summary = await generate(target=FakeTarget(is_exact=is_exact), is_same_target=is_same_target)
    assert summary.exact is expected


@pytest.mark.parametrize("strategy", [empty, perfect, first_right])
async def test_each_token_has_its_own_log_probabilities(strategy: Strategy) -> None:
    chunks, _ = await generate(strategy, target=FakeTarget(log_probabilities=True))
    told = [(token.token, token.log_probabilities.chosen) for chunk in chunks for token in chunk.tokens]
    assert [chosen.token for _, chosen in told] == [token for token, _ in told] == plain_text(PROMPT, 8)
    assert [chosen.log_probability for _, chosen in told] == [-len(PROMPT) - index for index in range(8)]


async def test_no_log_probabilities_unless_asked_for() -> None:
    chunks, _ = await generate(perfect)
    assert not any(token.HasField("log_probabilities") for chunk in chunks for token in chunk.tokens)


def test_drawn_seeds_use_the_53_bits_of_a_javascript_number() -> None:
    seeds = {draw_seed() for _ in range(64)}
    assert len(seeds) == 64
    assert all(float(seed) == seed and 0 <= seed < 2**53 for seed in seeds)
    assert max(seeds) >= 2**52


@pytest.mark.parametrize("strategy", [empty, perfect])
async def test_a_stop_token_ends_the_text_and_adds_none(strategy: Strategy) -> None:
    """Also in the middle of a draft, and while text is held back that might begin a stop string."""
    text = plain_text(PROMPT, 20)
    num_before = next(index for index in range(2, 20) if text[index] not in text[:index])
    before = text_of(text[:num_before])
    chunks, summary = await generate(
        strategy, max_tokens=20, stop_tokens=(text[num_before],), stop=(before[-1] + "beyond",)
    )
    assert tokens_of(chunks) == text[: num_before + 1]
    assert "".join(chunk.text for chunk in chunks) == before
    assert summary.finish_reason == generation_pb2.FINISH_REASON_STOP
    assert summary.usage.num_generated_tokens == num_before + 1


async def test_the_token_that_ends_a_generation_adds_no_text() -> None:
    """Some have one, and one that was named at start may be any."""
    spelled = [*TOKEN_BYTES[:-1], b"<|end|>"]
    chunks, summary = await generate(perfect, target=FakeTarget(end_at=len(PROMPT) + 5), token_bytes=spelled)
    assert tokens_of(chunks)[-1] == END
    assert "".join(chunk.text for chunk in chunks) == text_of(plain_text(PROMPT, 5))
    assert summary.finish_reason == generation_pb2.FINISH_REASON_END_OF_GENERATION


async def test_a_smaller_target_ends_a_text_with_a_full_context() -> None:
    target = FakeTarget()
    target.limits = Limits(max_draft_tokens=3, context_length=len(PROMPT) + 5)
    chunks, summary = await generate(perfect, target=target, max_tokens=20)
    assert tokens_of(chunks) == plain_text(PROMPT, 5)
    assert summary.finish_reason == generation_pb2.FINISH_REASON_CONTEXT_FULL


async def test_what_kept_the_draft_from_being_used_is_told() -> None:
    drafter = FakeDrafter(empty)
    drafter.problem = "it is away"
    assert (await generate(drafter=drafter))[1].draft_problem == "it is away"


@pytest.mark.parametrize("strategy", [empty, perfect])
async def test_how_much_of_the_prompt_was_cached(strategy: Strategy) -> None:
    """By the first verification: later ones have all but what is new."""
    chunks, summary = await generate(strategy, target=FakeTarget(num_cached_tokens=2))
    assert summary.usage.num_cached_prompt_tokens == 2
    # Known with the first chunk, and told with no other.
    first, *others = chunks
    known = generation_pb2.Usage(num_prompt_tokens=len(PROMPT), num_cached_prompt_tokens=2)
    assert first.usage == known and not any(each.HasField("usage") for each in others)


CALL = ['<tool_call>{"name', '": "now", "argu', 'ments": {"a', '": 1}}', "</tool_", "call>"]


async def calling(*, num_tokens: int = len(CALL), **options: Any) -> tuple[Whole, generation_pb2.GenerateSummary]:
    """What an answer comes to whose tokens are pieces of a call."""
    target = FakeTarget(len(PROMPT) + num_tokens, next_token=lambda sequence: len(sequence) - len(PROMPT))
    token_bytes = [*(piece.encode() for piece in CALL), *([b""] * NUM_TOKENS)]
    chunks, summary = await generate(target=target, token_bytes=token_bytes, **options)
    told = Whole()
    for chunk in chunks:
        told.add(AnswerParts(chunk.content, chunk.reasoning, chunk.tool_calls))
    assert "".join(chunk.text for chunk in chunks) == "".join(CALL[: summary.usage.num_generated_tokens])
    return told, summary


async def test_a_generation_that_calls_a_tool() -> None:
    told, summary = await calling(answer=answer_of(HERMES))
    assert (told.content, told.meant) == ("", [("now", {"a": 1})])
    assert summary.finish_reason == generation_pb2.FINISH_REASON_TOOL_CALLS


async def test_a_generation_that_was_cut_off_calls_none() -> None:
    told, summary = await calling(answer=answer_of(HERMES), max_tokens=3)
    assert (told.content, told.calls) == ("".join(CALL[:3]), {})
    assert summary.finish_reason == generation_pb2.FINISH_REASON_MAX_TOKENS


async def test_a_generation_that_ended_by_itself_and_calls_none() -> None:
    told, summary = await calling(answer=answer_of(MISTRAL))
    assert (told.content, told.calls) == ("".join(CALL), {})
    assert summary.finish_reason == generation_pb2.FINISH_REASON_END_OF_GENERATION


async def test_tokens_that_are_thought_are_counted() -> None:
    """As all others, by what they leave the answer at: the one that ends a thought is none of it."""
    text = text_of(plain_text(PROMPT, 8))
    ends = target_pb2.AnswerMarker(text=text[4], begins=target_pb2.ANSWER_PART_CONTENT)
    form = target_pb2.AnswerFormat(first=target_pb2.ANSWER_PART_REASONING, markers=[ends])
    before = text.index(text[4])
    chunks, summary = await generate(answer=Answer(form))
    assert "".join(chunk.reasoning for chunk in chunks) == text[:before]
    assert summary.usage.num_reasoning_tokens == before
    _, summary = await generate()
    assert summary.usage.num_reasoning_tokens == 0
