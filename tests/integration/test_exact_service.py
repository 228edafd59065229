"""A target that is served exactly: what it says of itself, and text that does not depend on who else is served."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from outrider.v1 import common_pb2
from tests.integration.conftest import Pair
from tests.integration.services import OFF, client_of, draft_server, fixed, orchestrator_server, target_server

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("batch_rows", [32, 256])
async def test_exact_text_is_exact_and_says_so(pair: Pair, batch_rows: int) -> None:
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(
            target_server(pair.target, exact="on", batch_rows=batch_rows, prefill_rows=16)
        )
        draft = await stack.enter_async_context(draft_server(pair.draft))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(orchestrator))
        await client.until_draft(is_available=True)
        model = (await client.status()).target.model
        assert model.exact_mode in (common_pb2.EXACT_MODE_ROW_MULTIPLE, common_pb2.EXACT_MODE_CONSTANT_ROWS)
        assert model.exact_width > 0
        asked: list[dict[str, Any]] = [
            {"temperature": temperature, "max_tokens": 24, "require_exact": True, "num_log_probabilities": 2}
            for temperature in (0.0, 0.8)
        ]
        alone = [await client.generate(**each, speculation=OFF) for each in asked]
        together = await asyncio.gather(
            *(client.generate(**each, speculation=speculation) for each in asked for speculation in (OFF, fixed(5)))
        )
    for plain, (first, second) in zip(alone, zip(together[0::2], together[1::2], strict=True), strict=True):
        for generated in (first, second):
            assert generated.summary.exact
            # To the bit: the log-probabilities too.
            assert [(token.token, token.log_probabilities) for token in generated.tokens] == [
                (token.token, token.log_probabilities) for token in plain.tokens
            ]
    assert together[1].counts.num_accepted_tokens > 0


@pytest.mark.parametrize("batch_rows", [32, 256])
async def test_a_target_may_decide_for_itself(pair: Pair, batch_rows: int) -> None:
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, exact="auto", batch_rows=batch_rows))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address))
        client = await stack.enter_async_context(client_of(orchestrator))
        model = (await client.status()).target.model
        generated = await client.generate(max_tokens=8)
    assert generated.summary.exact == (model.exact_mode != common_pb2.EXACT_MODE_OFF)


async def test_text_that_is_not_exact_does_not_say_so(pair: Pair) -> None:
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, exact="off"))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address))
        client = await stack.enter_async_context(client_of(orchestrator))
        assert (await client.status()).target.model.exact_mode == common_pb2.EXACT_MODE_OFF
        assert not (await client.generate(max_tokens=8)).summary.exact
