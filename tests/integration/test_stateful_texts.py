"""Models that keep a recurrent state, as targets and as drafts: whatever is drafted, the text is the target's own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from outrider.v1 import common_pb2, generation_pb2
from services.engine.model.model import Model
from services.engine.runtime.interface import Segment
from services.engine.runtime.runtime import LlamaRuntime
from tests.environment import hide_settings
from tests.integration.conftest import Pair
from tests.integration.model_options import OPTIONS
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
from tests.integration.stateful import PAIRS, SPECULATIONS, WAYS, ask, differences, prompt, write_pair

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

# A decode takes as few rows as it can, so that prompts come in parts.
SMALL: dict[str, Any] = {"batch_rows": 32, "prefill_rows": 16}
PROMPTS = [prompt(5), prompt(30, seed=1), prompt(90, seed=2)]


@pytest.fixture(scope="module", params=PAIRS)
def stateful_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return write_pair(request.param, tmp_path_factory.mktemp("stateful"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(stateful_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    """A client of an exact system."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        hide_settings(monkeypatch)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        async with AsyncExitStack() as stack:
            target = await stack.enter_async_context(target_server(stateful_pair.target, exact="on", **SMALL))
            draft = await stack.enter_async_context(draft_server(stateful_pair.draft, **SMALL))
            server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
            client = await stack.enter_async_context(client_of(server))
            await client.until_draft(is_available=True)
            yield client


async def plainly(client: Client, way: str) -> list[Generated]:
    """What comes of the prompts, one after the other, without a draft."""
    return [await ask(client, tokens, OFF, **WAYS[way]) for tokens in PROMPTS]


@pytest.mark.parametrize("way", WAYS)
async def test_plain_text_is_that_of_the_model_by_itself(stateful_pair: Pair, client: Client, way: str) -> None:
    """Each log-probability is that of one evaluation of the whole text."""
    model = Model(stateful_pair.target)
    runtime = LlamaRuntime(model, OPTIONS)
    for tokens, generated in zip(PROMPTS, await plainly(client, way), strict=True):
        whole = [*tokens, *generated.ids]
        (logits,) = runtime.decode([Segment(0, 0, whole, len(whole))])
        rows = logits[len(tokens) - 1 : -1].astype(np.float64)
        rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
        said = [token.log_probabilities.chosen.log_probability for token in generated.tokens]
        assert np.abs(rows[range(len(said)), generated.ids] - said).max() < 0.05
        runtime.cut(0, 0)
    runtime.close()
    model.close()


@pytest.mark.parametrize("way", WAYS)
async def test_no_draft_changes_the_text(client: Client, way: str) -> None:
    expected = await plainly(client, way)
    for name, speculation in SPECULATIONS.items():
        generated = [await ask(client, tokens, speculation, **WAYS[way]) for tokens in PROMPTS]
        assert list(differences(generated, expected)) == [], name
        assert all(each.summary.exact for each in generated)
        assert all(each.counts.num_fallbacks == each.counts.num_resyncs == 0 for each in generated)
        assert speculation.mode != generation_pb2.SPECULATION_MODE_FIXED or all(
            each.counts.num_drafts > 0 for each in generated
        )


@pytest.mark.parametrize("way", WAYS)
async def test_so_many_at_once_that_they_evict_each_other(client: Client, way: str) -> None:
    """Twice as many as there are slots, drafted and plain."""
    prompts = [prompt(length, seed=length) for length in (3, 20, 31, 50, 66, 70, 95, 120)]
    expected = [await ask(client, tokens, OFF, **WAYS[way]) for tokens in prompts]
    for speculations in ([fixed(4)] * 8, [OFF, fixed(1), fixed(16), fixed(3)] * 2):
        together = await asyncio.gather(
            *(ask(client, tokens, each, **WAYS[way]) for tokens, each in zip(prompts, speculations, strict=True))
        )
        assert list(differences(together, expected)) == []


async def test_the_target_says_that_it_is_exact(client: Client) -> None:
    model = (await client.status()).target.model
    assert model.exact_mode == common_pb2.EXACT_MODE_ROW_MULTIPLE
    assert (await ask(client, PROMPTS[0], require_exact=True)).summary.exact
