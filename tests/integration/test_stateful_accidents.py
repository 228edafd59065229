"""What may happen to a system whose models keep a recurrent state: its texts stay what they were."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.integration.conftest import Pair
from tests.integration.services import OFF, Generated, draft_server, fixed, target_server
from tests.integration.stateful import WAYS, ask, differences, port_of, prompt, running, write_pair
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.integration

TOKENS = prompt(40)
PAIRS = ("hybrid, drafts of one like it", "recurrent, drafts of a hybrid", "plain, drafts of a recurrent one")


@pytest.fixture(scope="module", params=PAIRS)
def stateful_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(request.param, tmp_path_factory.mktemp("stateful"))


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is found out of a target, once for all tests here."""
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _remembered(cache_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", cache_folder)


def check(generated: Generated, expected: Generated, exact: str) -> None:
    """Compare two answers: to the bit where the target is exact, or else their tokens, which rounding rarely flips."""
    assert generated.summary.exact == expected.summary.exact == (exact == "on")
    assert generated.ids == expected.ids
    assert exact == "off" or list(differences([generated], [expected])) == []


@pytest.mark.parametrize("exact", ["on", "off"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_draft_that_dies_in_the_middle_and_another_that_takes_its_place(
    stateful_pair: Pair, way: str, exact: str
) -> None:
    async with running(stateful_pair, exact) as system, AsyncExitStack() as stack:
        client, asked = system.client, {"max_tokens": 40, **WAYS[way]}
        expected = await ask(client, TOKENS, OFF, **asked)
        system.draft_gate.hold_after(12)
        task = asyncio.create_task(ask(client, TOKENS, fixed(4), **asked))
        await system.draft_gate.reached()
        stopping = asyncio.create_task(system.draft.stop(0))
        await client.until_draft(is_available=False)
        system.draft_gate.open()
        await stopping
        generated = await task
        check(generated, expected, exact)
        assert generated.counts.num_fallbacks == 1
        assert 0 < generated.counts.num_drafts < generated.counts.num_cycles - 1
        # It comes in the middle of a request, and reads what it lacks; that is another model.
        system.target_gate.hold_after(5)
        task = asyncio.create_task(ask(client, TOKENS, fixed(4), **asked))
        await system.target_gate.reached()
        await stack.enter_async_context(draft_server(stateful_pair.target, port=port_of(system.draft)))
        await client.until_draft(is_available=True)
        system.target_gate.open()
        generated = await task
        check(generated, expected, exact)
        assert generated.counts.num_accepted_tokens > 0


@pytest.mark.parametrize("exact", ["on", "off"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_target_that_is_restarted_in_the_middle_of_requests(stateful_pair: Pair, way: str, exact: str) -> None:
    async with running(stateful_pair, exact) as system, AsyncExitStack() as stack:
        client, asked = system.client, {"max_tokens": 40, **WAYS[way]}
        others = {length: fixed(length % 8) for length in (3, 33, 70)}
        expected = {length: await ask(client, prompt(length), OFF, **asked) for length in others}
        system.target_gate.hold_after(10)
        tasks = {
            length: asyncio.create_task(ask(client, prompt(length), speculation, **asked))
            for length, speculation in others.items()
        }
        await system.target_gate.reached()
        stopping = asyncio.create_task(system.target.stop(0))
        async with asyncio.timeout(PATIENCE_S):
            while (await client.status()).target.is_available:
                await asyncio.sleep(0.005)
        system.target_gate.open()
        await stopping
        await stack.enter_async_context(target_server(stateful_pair.target, exact=exact, port=port_of(system.target)))
        for length, task in tasks.items():
            generated = await task
            check(generated, expected[length], exact)
            assert generated.counts.num_resyncs == 1


@pytest.mark.parametrize("exact", ["on", "off"])
@pytest.mark.parametrize("way", WAYS)
async def test_fewer_slots_than_requests(stateful_pair: Pair, way: str, exact: str) -> None:
    async with running(stateful_pair, exact, slots=2) as system:
        prompts = [prompt(length, seed=length) for length in (3, 20, 31, 50, 66, 100)]
        asked = {"max_tokens": 12, **WAYS[way]}
        expected = [await ask(system.client, tokens, OFF, **asked) for tokens in prompts]
        together = await asyncio.gather(*(ask(system.client, tokens, fixed(4), **asked) for tokens in prompts))
        for generated, other in zip(together, expected, strict=True):
            check(generated, other, exact)
