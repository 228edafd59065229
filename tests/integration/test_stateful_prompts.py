"""Prompts of models that keep a recurrent state: what was evaluated before is used again, and the text is the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.integration.conftest import Pair
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
from tests.integration.stateful import WAYS, ask, differences, prompt, write_pair

pytestmark = pytest.mark.integration

KINDS = ("hybrid, drafts of one like it", "recurrent, drafts of a hybrid")
LONG = 150
SPECULATIONS = {"plain": OFF, "drafted": fixed(4)}


@pytest.fixture(scope="module", params=KINDS)
def stateful_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(request.param, tmp_path_factory.mktemp("stateful"))


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is found out of a target, once for all tests here."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
async def client(stateful_pair: Pair, cache_folder: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    """A client of an exact system whose slots are empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", cache_folder)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(stateful_pair.target, exact="on", batch_rows=64))
        draft = await stack.enter_async_context(draft_server(stateful_pair.draft, batch_rows=64))
        server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        yield client


def cached(generated: Generated) -> int:
    return generated.summary.usage.num_cached_prompt_tokens


@pytest.mark.parametrize("speculation", SPECULATIONS)
@pytest.mark.parametrize("way", WAYS)
async def test_the_same_prompt_again(client: Client, way: str, speculation: str) -> None:
    """All but its last rows is there, whatever was generated after it."""
    tokens = prompt(LONG)
    asked = {"speculation": SPECULATIONS[speculation], **WAYS[way]}
    first, *again = [await ask(client, tokens, **asked) for _ in range(3)]
    assert cached(first) == 0
    for generated in again:
        assert LONG - 8 <= cached(generated) < LONG
        assert list(differences([generated], [first])) == []


@pytest.mark.parametrize("speculation", SPECULATIONS)
@pytest.mark.parametrize("way", WAYS)
async def test_the_next_turns_of_a_chat(client: Client, way: str, speculation: str) -> None:
    """Each begins with the last prompt and its answer, as it is; and the whole again is the same."""
    tokens, asked = prompt(LONG), {"max_tokens": 12, **WAYS[way]}
    turns: list[tuple[list[int], Generated]] = []
    for number in range(4):
        generated = await ask(client, tokens, SPECULATIONS[speculation], **asked)
        if turns:
            assert cached(generated) >= len(turns[-1][0]) + len(turns[-1][1].ids) - 1
        turns.append((tokens, generated))
        tokens = [*tokens, *generated.ids, *prompt(9, seed=number)]
    # In another order: what is there of one is longer than the next.
    for tokens, expected in reversed(turns):
        assert list(differences([await ask(client, tokens, OFF, **asked)], [expected])) == []


@pytest.mark.parametrize("way", WAYS)
async def test_an_answer_that_is_told_otherwise(client: Client, way: str) -> None:
    """As by a template that drops what was thought: it goes on from the prompt before."""
    tokens, other = prompt(LONG), prompt(20, seed=1)
    expected = await ask(client, [*tokens, *other], OFF, **WAYS[way])
    assert cached(expected) == 0
    await ask(client, prompt(LONG, seed=5), OFF, **WAYS[way])
    await ask(client, tokens, fixed(4), **WAYS[way])
    generated = await ask(client, [*tokens, *other], fixed(4), **WAYS[way])
    assert cached(generated) >= LONG - 8
    assert list(differences([generated], [expected])) == []


@pytest.mark.parametrize("speculation", SPECULATIONS)
@pytest.mark.parametrize("way", WAYS)
async def test_sessions_at_once_that_begin_alike(client: Client, way: str, speculation: str) -> None:
    """The second ones take what the first has of it, from a slot that goes on meanwhile."""
    common = prompt(120)
    prompts = [[*common, *prompt(length, seed=length)] for length in (5, 17, 30)]
    expected = [await ask(client, tokens, OFF, **WAYS[way]) for tokens in prompts]
    assert [cached(generated) for generated in expected[1:]] != [0, 0]
    for _ in range(2):
        together = await asyncio.gather(
            *(ask(client, tokens, SPECULATIONS[speculation], **WAYS[way]) for tokens in prompts)
        )
        assert list(differences(together, expected)) == []
        assert max(map(cached, together)) > 0


@pytest.mark.parametrize("way", WAYS)
async def test_scores_are_those_of_generation(client: Client, way: str) -> None:
    written = await ask(client, prompt(40), OFF, **WAYS[way], max_tokens=60)
    whole = [*prompt(40), *written.ids]
    for speculation in (OFF, fixed(4)):
        scored = await ask(client, whole, speculation, **WAYS[way], num_prompt_log_probabilities=2, max_tokens=4)
        told = [token.log_probabilities for token in scored.prompt[40:]]
        assert told == [token.log_probabilities for token in written.tokens]
