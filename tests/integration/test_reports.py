"""What fronts are told of a generation: each cycle, and how much of a prompt was known."""

import pytest

from outrider.v1 import generation_pb2
from tests.integration.conftest import System
from tests.integration.services import AUTO, OFF, Generated, fixed

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ACCEPTED = generation_pb2.TOKEN_ORIGIN_ACCEPTED


def _check_cycles(generated: Generated) -> None:
    """Reports and counters tell one story, and the text is that of the tokens."""
    cycles = [chunk.cycle for chunk in generated.chunks if chunk.HasField("cycle")]
    counts = generated.counts
    assert [cycle.index for cycle in cycles] == list(range(counts.num_cycles))
    assert sum(cycle.num_accepted for cycle in cycles) == counts.num_accepted_tokens
    assert sum(cycle.num_draft_tokens for cycle in cycles) == counts.num_draft_tokens
    assert sum(cycle.num_skipped for cycle in cycles) == counts.num_skipped_tokens
    assert sum(cycle.verifying.waited_ms for cycle in cycles) == pytest.approx(generated.summary.timings.target_ms)
    assert sum(cycle.drafting.waited_ms for cycle in cycles) == pytest.approx(generated.summary.timings.draft_ms)
    for chunk in generated.chunks:
        if not chunk.HasField("cycle"):
            continue
        accepted = [token for token in chunk.tokens if token.origin == ACCEPTED]
        told = [token for token in chunk.cycle.draft_tokens if token.is_accepted]
        assert [token.token for token in told] == [token.token for token in accepted]
        assert "".join(token.text for token in told) == "".join(token.text for token in accepted)
        verifying = chunk.cycle.verifying
        assert 0 < verifying.decode_ms <= verifying.computed_ms <= verifying.waited_ms
        assert chunk.cycle.batch_rows > chunk.cycle.num_draft_tokens


async def test_cycles_with_a_fixed_number_of_draft_tokens(shared_system: System) -> None:
    silent = await shared_system.client.generate(speculation=fixed(3))
    assert not any(chunk.HasField("cycle") for chunk in silent.chunks)
    assert silent.counts.speedup == 0
    generated = await shared_system.client.generate(speculation=fixed(3), report_cycles=True)
    assert generated.ids == silent.ids
    _check_cycles(generated)
    for chunk in generated.chunks:
        cycle = chunk.cycle
        drafts = cycle.num_draft_tokens > 0
        assert cycle.drafter == (generation_pb2.DRAFTER_REMOTE if drafts else generation_pb2.DRAFTER_NONE)
        assert all(0 < token.probability <= 1 for token in cycle.draft_tokens)
        assert not any(token.HasField("chance") for token in cycle.draft_tokens)
        assert not cycle.HasField("choice")
    # Also where nothing is weighed, a page can compare with plain decoding.
    assert all(chunk.cycle.plain_ms > 0 for chunk in generated.chunks)


async def test_cycles_whose_length_is_chosen(shared_system: System) -> None:
    await shared_system.client.generate(speculation=AUTO)
    generated = await shared_system.client.generate(speculation=AUTO, report_cycles=True, max_tokens=64)
    _check_cycles(generated)
    chosen = [chunk.cycle for chunk in generated.chunks if chunk.cycle.HasField("choice")]
    assert chosen
    for cycle in chosen:
        assert cycle.choice.tokens_per_s > 0
        assert all(0 < token.chance <= 1 for token in cycle.draft_tokens)
        assert cycle.plain_ms > 0
        assert cycle.num_sessions >= 1


async def test_cycles_without_a_draft(shared_system: System) -> None:
    generated = await shared_system.client.generate(speculation=OFF, report_cycles=True)
    _check_cycles(generated)
    assert {chunk.cycle.drafter for chunk in generated.chunks} == {generation_pb2.DRAFTER_NONE}


@pytest.mark.parametrize("speculation", [OFF, fixed(3)])
async def test_how_much_of_a_prompt_the_target_had(
    shared_system: System, speculation: generation_pb2.Speculation
) -> None:
    first = 100 + speculation.mode

    async def num_cached(*tokens: int) -> int:
        asked = generation_pb2.TokenPrompt(tokens=tokens)
        usage = (await shared_system.client.generate(tokens=asked, speculation=speculation)).summary.usage
        assert usage.num_prompt_tokens == len(tokens)
        return usage.num_cached_prompt_tokens

    assert await num_cached(first, 21, 22, 23, 24, 25) == 0
    # The last one is always evaluated.
    assert await num_cached(first, 21, 22, 23, 24, 25) == 5
    assert await num_cached(first, 21, 22, 23, 30, 31) == 4
    assert await num_cached(first, 40, 41) == 1


async def test_the_next_turn_of_a_chat_evaluates_only_what_is_new(shared_system: System) -> None:
    """Over requests of their own, which know nothing of each other."""
    tokens = [150, 21, 22, 23, 24, 25]
    answer = await shared_system.client.generate(tokens=generation_pb2.TokenPrompt(tokens=tokens))
    longer = [*tokens, *answer.ids, 26, 27]
    again = await shared_system.client.generate(tokens=generation_pb2.TokenPrompt(tokens=longer))
    # Its last token was committed, and never evaluated.
    assert again.summary.usage.num_cached_prompt_tokens == len(tokens) + len(answer.ids) - 1
