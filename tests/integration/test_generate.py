"""Generate with and without a draft: the text is the target's own, and the accounts add up."""

import asyncio
import itertools
from typing import Any

import grpc
import pytest

from outrider.v1 import common_pb2, generation_pb2, target_pb2, target_pb2_grpc
from tests.integration.conftest import System
from tests.integration.services import AUTO, OFF, Generated, fixed

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ACCEPTED = generation_pb2.TOKEN_ORIGIN_ACCEPTED
RECOVERED = generation_pb2.TOKEN_ORIGIN_RECOVERED
BONUS = generation_pb2.TOKEN_ORIGIN_BONUS
# What both services take, and the orchestrator asks for at most.
MOST_DRAFT_TOKENS = 16
SPECULATIONS = {
    "auto": AUTO,
    "unspecified": generation_pb2.Speculation(),
    "fixed 1": fixed(1),
    "fixed 3": fixed(3),
    "fixed 7": fixed(7),
}


def _check_accounts(generated: Generated, max_draft_tokens: int) -> None:
    """Tokens, their origins and the counters tell one story."""
    counts, tokens = generated.counts, generated.tokens
    origins = [token.origin for token in tokens]
    assert counts.num_cycles == len([chunk for chunk in generated.chunks if chunk.tokens])
    assert counts.num_accepted_tokens == origins.count(ACCEPTED) <= counts.num_draft_tokens
    assert counts.num_cycles == origins.count(RECOVERED) + origins.count(BONUS)
    assert generated.summary.usage.num_generated_tokens == len(tokens)
    assert sum(counts.num_accepted_per_position) == counts.num_accepted_tokens
    assert list(counts.num_accepted_per_position) == sorted(counts.num_accepted_per_position, reverse=True)
    assert len(counts.num_accepted_per_position) <= max_draft_tokens
    assert counts.num_drafts <= counts.num_cycles
    assert counts.num_draft_tokens <= counts.num_drafts * max_draft_tokens
    for chunk in generated.chunks:
        assert [token.origin for token in chunk.tokens[:-1]] == [ACCEPTED] * (len(chunk.tokens) - 1)
        assert chunk.text == "".join(token.text for token in chunk.tokens) or not chunk.tokens


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_no_draft_changes_the_text(shared_system: System, temperature: float) -> None:
    prompts = ("def main(", "class A:\n    ", "a")
    for prompt in prompts:
        plain = await shared_system.client.generate(prompt, temperature=temperature, speculation=OFF)
        _check_accounts(plain, 0)
        assert plain.counts.num_cycles == len(plain.tokens)
        assert {token.origin for token in plain.tokens} == {BONUS}
        for name, speculation in SPECULATIONS.items():
            generated = await shared_system.client.generate(prompt, temperature=temperature, speculation=speculation)
            assert generated.ids == plain.ids, f"{prompt!r} with speculation {name}"
            assert generated.text == plain.text
            assert generated.summary.finish_reason == plain.summary.finish_reason
            _check_accounts(generated, speculation.num_draft_tokens or MOST_DRAFT_TOKENS)
            # Whether drafts are worth it is for `auto` to say.
            assert generated.counts.num_drafts > 0 or not speculation.num_draft_tokens
            assert generated.counts.num_fallbacks == generated.counts.num_resyncs == 0


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_some_draft_tokens_are_accepted_and_some_rejected(shared_system: System, temperature: float) -> None:
    generated = await shared_system.client.generate(temperature=temperature, speculation=fixed(3))
    origins = [token.origin for token in generated.tokens]
    assert set(origins) == {ACCEPTED, RECOVERED, BONUS}
    assert 0 < generated.counts.num_accepted_tokens < generated.counts.num_draft_tokens
    assert generated.counts.num_cycles < len(generated.tokens)


async def test_a_request_may_ask_for_shorter_drafts(shared_system: System) -> None:
    speculation = generation_pb2.Speculation(mode=generation_pb2.SPECULATION_MODE_AUTO, max_draft_tokens=2)
    generated = await shared_system.client.generate(speculation=speculation)
    assert len(generated.counts.num_accepted_per_position) <= 2
    assert max(len(chunk.tokens) for chunk in generated.chunks) <= 3


async def test_the_seed_decides_the_text(shared_system: System) -> None:
    texts = [
        (await shared_system.client.generate(temperature=1.0, seed=seed, speculation=speculation)).text
        for seed, speculation in itertools.product((1, 2, 2**64 - 1), (OFF, fixed(3)))
    ]
    assert texts[0::2] == texts[1::2]
    assert len(set(texts)) == 3


async def test_a_drawn_seed_is_told_and_gives_the_same_text_again(shared_system: System) -> None:
    answers = [await shared_system.client.generate(temperature=1.0, seed=None) for _ in range(2)]
    seeds = [answer.summary.seed for answer in answers]
    assert seeds[0] != seeds[1]
    assert answers[0].text != answers[1].text
    for answer, seed in zip(answers, seeds, strict=True):
        again = await shared_system.client.generate(temperature=1.0, seed=seed)
        assert (again.text, again.summary.seed) == (answer.text, seed)


async def test_a_seed_of_zero_is_a_seed(shared_system: System) -> None:
    answers = [await shared_system.client.generate(temperature=1.0, seed=0) for _ in range(2)]
    assert [answer.summary.seed for answer in answers] == [0, 0]
    assert answers[0].text == answers[1].text


async def test_the_seed_among_the_sampling_parameters_is_ignored(shared_system: System) -> None:
    expected = await shared_system.client.generate(temperature=1.0, seed=3)
    sampling = common_pb2.Sampling(temperature=1.0, seed=99)
    assert (await shared_system.client.generate(sampling=sampling, seed=3)).text == expected.text


async def test_greedy_text_needs_no_seed(shared_system: System) -> None:
    assert (await shared_system.client.generate(seed=1)).text == (await shared_system.client.generate(seed=2)).text


async def test_log_probabilities_do_not_depend_on_the_draft(shared_system: System) -> None:
    asked: dict[str, Any] = {"temperature": 0.8, "num_log_probabilities": 3}
    plain = await shared_system.client.generate(speculation=OFF, **asked)
    drafted = await shared_system.client.generate(speculation=fixed(4), **asked)
    assert drafted.ids == plain.ids
    for ours, theirs in zip(drafted.tokens, plain.tokens, strict=True):
        chosen, top = ours.log_probabilities.chosen, ours.log_probabilities.top
        assert chosen.token == ours.token
        assert len(top) == 3
        assert 0 >= top[0].log_probability >= top[1].log_probability >= top[2].log_probability
        assert top[0].log_probability >= chosen.log_probability
        for mine, other in zip(
            [chosen, *top], [theirs.log_probabilities.chosen, *theirs.log_probabilities.top], strict=True
        ):
            assert mine.token == other.token
            assert mine.log_probability == pytest.approx(other.log_probability, abs=1e-3)


async def test_log_probabilities_of_the_chosen_token_alone(shared_system: System) -> None:
    greedy = await shared_system.client.generate(num_log_probabilities=0)
    assert all(token.log_probabilities.chosen.token == token.token for token in greedy.tokens)
    assert not any(token.log_probabilities.top for token in greedy.tokens)
    best = await shared_system.client.generate(num_log_probabilities=1)
    for token in best.tokens:
        assert token.log_probabilities.top[0] == token.log_probabilities.chosen


async def test_text_and_token_ids_are_two_ways_to_ask_for_the_same(shared_system: System) -> None:
    async with grpc.aio.insecure_channel(shared_system.target.address) as channel:
        request = target_pb2.TokenizeRequest(text="def main(", add_bos=True)
        tokens = (await target_pb2_grpc.TargetServiceStub(channel).Tokenize(request)).tokens
    assert tokens[0] == 0, "the first token of the model comes first"
    by_text = await shared_system.client.generate("def main(")
    by_ids = await shared_system.client.generate(tokens=generation_pb2.TokenPrompt(tokens=tokens))
    assert by_ids.ids == by_text.ids
    assert by_ids.summary.usage.num_prompt_tokens == by_text.summary.usage.num_prompt_tokens == len(tokens)
    without_first = await shared_system.client.generate(tokens=generation_pb2.TokenPrompt(tokens=tokens[1:]))
    assert without_first.ids != by_text.ids


async def test_requests_at_once_do_not_disturb_each_other(shared_system: System) -> None:
    """More of them than slots, drafted and plain, greedy and sampled."""
    asked: list[dict[str, Any]] = [
        {"text": prompt, "temperature": temperature, "speculation": speculation, "seed": seed, "max_tokens": 24}
        for seed, (prompt, temperature, speculation) in enumerate(
            itertools.product(("def main(", "if x:"), (0.0, 0.8), (OFF, fixed(3)))
        )
    ]
    alone = [await shared_system.client.generate(**each) for each in asked]
    together = await asyncio.gather(*(shared_system.client.generate(**each) for each in asked))
    assert [each.text for each in together] == [each.text for each in alone]


async def test_a_prompt_of_many_tokens(shared_system: System) -> None:
    """Longer than what one decode takes of a prompt beside others."""
    prompt = "".join(f"x{number} = {number}\n" for number in range(30))
    plain = await shared_system.client.generate(prompt, speculation=OFF, max_tokens=12)
    assert plain.summary.usage.num_prompt_tokens > 128
    assert (await shared_system.client.generate(prompt, speculation=fixed(3), max_tokens=12)).ids == plain.ids


async def test_generation_up_to_the_end_of_the_context(shared_system: System) -> None:
    prompt = "".join(f"x{number} = {number}\n" for number in range(18))
    plain = await shared_system.client.generate(prompt, speculation=OFF, max_tokens=1000)
    drafted = await shared_system.client.generate(prompt, speculation=fixed(7), max_tokens=1000)
    assert drafted.ids == plain.ids
    for each in (plain, drafted):
        usage = each.summary.usage
        assert usage.num_prompt_tokens + usage.num_generated_tokens == 256
        assert each.summary.finish_reason == generation_pb2.FINISH_REASON_CONTEXT_FULL


async def test_a_single_token(shared_system: System) -> None:
    plain = await shared_system.client.generate(max_tokens=1, speculation=fixed(4))
    assert len(plain.tokens) == 1
    assert plain.counts.num_draft_tokens == 0
    assert plain.summary.finish_reason == generation_pb2.FINISH_REASON_MAX_TOKENS


async def test_a_stop_string(shared_system: System) -> None:
    whole = (await shared_system.client.generate(speculation=OFF)).text
    stop = whole[10:13]
    for speculation in (OFF, fixed(5)):
        generated = await shared_system.client.generate(speculation=speculation, stop=[stop])
        assert generated.text == whole[: whole.index(stop)]
        assert generated.summary.finish_reason == generation_pb2.FINISH_REASON_STOP


async def test_the_status_sums_up(shared_system: System) -> None:
    before = await shared_system.client.status()
    assert before.target.is_available and before.draft.is_available
    assert before.target.model.name == "outrider-target"
    assert before.draft.model.name == "outrider-draft"
    assert before.num_active == 0
    first = await shared_system.client.generate(speculation=fixed(3))
    second = await shared_system.client.generate(speculation=OFF)
    after = await shared_system.client.status()
    sums, sums_before = after.speculation, before.speculation
    assert sums.num_cycles - sums_before.num_cycles == first.counts.num_cycles + second.counts.num_cycles
    assert sums.num_accepted_tokens - sums_before.num_accepted_tokens == first.counts.num_accepted_tokens
    assert after.num_active == 0


async def test_a_client_that_goes_away_frees_everything(shared_system: System) -> None:
    shared_system.target_gate.hold_after(0)
    task = asyncio.create_task(shared_system.client.generate(max_tokens=200))
    await shared_system.target_gate.reached()
    assert (await shared_system.client.status()).num_active == 1
    task.cancel()
    await asyncio.wait({task})
    shared_system.target_gate.open()
    async with asyncio.timeout(30):
        while (await shared_system.client.status()).num_active:
            await asyncio.sleep(0.005)
    assert (await shared_system.client.generate(max_tokens=8)).summary.usage.num_generated_tokens == 8
