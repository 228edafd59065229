"""The page in a browser, with the bundled pair: a draft that is stopped in the middle of a request changes no text."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.conftest import System
from tests.integration.services import OFF, Client, client_of, orchestrator_server
from tools.browser import Page, browsing, chromium

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium"),
]

PROMPT = "def main("
NUM_TOKENS = 48
IS_FREE = "!document.querySelector('#go').disabled"
TOKENS = "document.querySelectorAll('.tokens .token')"
VERDICT = "document.querySelector('#verdict').textContent"


@pytest_asyncio.fixture(loop_scope="module")
async def served(shared_system: System, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Page, Client]]:
    """The page of an orchestrator in front of the shared target and draft, and another client of it."""
    addresses = shared_system.target.address, shared_system.draft.address
    async with (
        orchestrator_server(*addresses, http="127.0.0.1:0") as server,
        client_of(server) as client,
        browsing(tmp_path_factory.mktemp("profile")) as page,
    ):
        await client.until_draft(is_available=True)
        application: Any = server._application
        await page.open(application.http.url)
        await page.until(IS_FREE)
        yield page, client
        assert page.problems == []


@pytest.mark.parametrize("temperature", [0, 0.8])
async def test_a_draft_that_is_stopped_changes_no_text(
    shared_system: System, served: tuple[Page, Client], temperature: float
) -> None:
    page, client = served
    fields = {"prompt": PROMPT, "seed": 5, "temperature": temperature, "max_tokens": NUM_TOKENS, "mode": "fixed"}
    for name, value in fields.items():
        await page.evaluate(f"document.querySelector('#ask').elements[{name!r}].value = {json.dumps(value)}")
    await page.evaluate("document.querySelector('#ask').elements.mode.dispatchEvent(new Event('change'))")
    # It is held where it still has much to say, and the page has what came before.
    gate = shared_system.target_gate
    gate.hold_after(5)
    await page.evaluate("document.querySelector('#ask').requestSubmit()")
    await gate.reached()
    await page.until(f"{TOKENS}.length >= 4")
    await page.evaluate("document.querySelector('#switch').click()")
    gate.open()
    await page.until(IS_FREE)
    kinds = await page.evaluate(f"[...{TOKENS}].map(token => token.classList[1])")
    assert len(kinds) == NUM_TOKENS
    assert set(kinds[-8:]) == {"plain"} < set(kinds)
    # Neither a run of the page without a draft tells it apart, nor another client.
    await page.evaluate("document.querySelector('#compare').click()")
    await page.until(f"{VERDICT} === 'The same text: {NUM_TOKENS} of {NUM_TOKENS} tokens equal.'")
    expected = await client.generate(PROMPT, max_tokens=NUM_TOKENS, seed=5, temperature=temperature, speculation=OFF)
    assert await page.evaluate(f"[...{TOKENS}].map(token => token.textContent).join('')") == expected.text
