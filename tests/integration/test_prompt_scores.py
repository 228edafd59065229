"""Log-probabilities of a prompt, as evaluation harnesses ask for them: those that its tokens have when generated."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from outrider.v1 import generation_pb2
from tests.integration.conftest import Pair, System
from tests.integration.services import (
    OFF,
    Client,
    Generated,
    client_of,
    draft_server,
    fixed,
    orchestrator_server,
    target_server,
)

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

# Longer than one message of the target's holds, and than one decode scores.
NUM_TOKENS = 180


async def generate_and_score(client: Client, num_top: int, temperature: float = 0.8) -> tuple[Generated, Generated]:
    """A text with its log-probabilities, and prompt and text scored."""
    written = await client.generate(
        temperature=temperature, speculation=OFF, max_tokens=NUM_TOKENS, num_log_probabilities=num_top
    )
    head = await client.generate("def main(", max_tokens=0, num_prompt_log_probabilities=0)
    tokens = [token.token for token in head.prompt] + written.ids
    prompt = generation_pb2.TokenPrompt(tokens=tokens)
    scored = await client.generate(
        tokens=prompt, max_tokens=0, num_prompt_log_probabilities=num_top, temperature=temperature
    )
    assert [token.token for token in scored.prompt] == tokens
    return written, scored


async def test_a_prompt_is_scored_as_its_tokens_were_generated(shared_system: System) -> None:
    written, scored = await generate_and_score(shared_system.client, 3)
    assert not scored.chunks
    usage = scored.summary.usage
    assert (usage.num_prompt_tokens, usage.num_generated_tokens) == (len(scored.prompt), 0)
    assert usage.num_cached_prompt_tokens == 0
    assert scored.summary.finish_reason == generation_pb2.FINISH_REASON_MAX_TOKENS
    assert not scored.prompt[0].HasField("log_probabilities")
    for token, generated in zip(scored.prompt[-len(written.ids) :], written.tokens, strict=True):
        ours, theirs = token.log_probabilities, generated.log_probabilities
        assert ours.chosen.token == theirs.chosen.token == token.token
        assert ours.chosen.log_probability == pytest.approx(theirs.chosen.log_probability, abs=1e-3)
        assert len(ours.top) == 3
    text = "".join(token.text for token in scored.prompt)
    assert text.endswith(written.text)


async def test_the_text_goes_on_as_ever(shared_system: System) -> None:
    expected = await shared_system.client.generate(temperature=0.8)
    for speculation in (OFF, fixed(3)):
        generated = await shared_system.client.generate(
            temperature=0.8, speculation=speculation, num_prompt_log_probabilities=1
        )
        assert generated.ids == expected.ids
        assert generated.prompt[1:]
        assert all(len(token.log_probabilities.top) == 1 for token in generated.prompt[1:])
        assert generated.counts.num_resyncs == 0


async def test_scorings_at_once_and_beside_others(shared_system: System) -> None:
    """More of them than slots."""
    client = shared_system.client
    prompts = [f"def f{number}(x):\n    return x + {number}\n" * 4 for number in range(6)]
    alone = [await client.generate(prompt, max_tokens=0, num_prompt_log_probabilities=2) for prompt in prompts]
    plain = await client.generate(max_tokens=32)
    *together, beside = await asyncio.gather(
        *(client.generate(prompt, max_tokens=0, num_prompt_log_probabilities=2) for prompt in prompts),
        client.generate(max_tokens=32),
    )
    assert beside.ids == plain.ids
    for ours, theirs in zip(together, alone, strict=True):
        for token, other in zip(ours.prompt[1:], theirs.prompt[1:], strict=True):
            ours_chosen, other_chosen = token.log_probabilities.chosen, other.log_probabilities.chosen
            assert ours_chosen.token == other_chosen.token
            assert ours_chosen.log_probability == pytest.approx(other_chosen.log_probability, abs=1e-3)


async def test_an_exact_target_scores_to_the_bit(pair: Pair) -> None:
    """Whether a token is generated or part of a prompt, alone or beside others, its log-probabilities are the same."""
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, exact="on"))
        draft = await stack.enter_async_context(draft_server(pair.draft))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(orchestrator))
        await client.until_draft(is_available=True)
        written, scored = await generate_and_score(client, 5)
        prompt = generation_pb2.TokenPrompt(tokens=[token.token for token in scored.prompt])
        beside, *_ = await asyncio.gather(
            client.generate(tokens=prompt, max_tokens=0, num_prompt_log_probabilities=5, require_exact=True),
            *(client.generate(speculation=fixed(5), seed=seed) for seed in range(3)),
        )
    assert scored.summary.exact
    told = [token.log_probabilities for token in scored.prompt]
    assert told[-len(written.ids) :] == [token.log_probabilities for token in written.tokens]
    assert [token.log_probabilities for token in beside.prompt] == told
