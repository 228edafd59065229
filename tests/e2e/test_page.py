"""The page at `/` in a browser, in front of answers of a script."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from services.frame.program.api_keys import ApiKeys
from services.frame.rpc.errors import ServiceError
from tests.e2e.scripted_answers import CYCLES, OFF, PROMPT, Script, Served, scripted
from tests.unit.orchestrator.http.scripted_face import TEXTS
from tests.waiting import soon
from tools.browser import Page, browsing, chromium

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium"),
]

IS_FREE = "!document.querySelector('#go').disabled"
KINDS = "[...document.querySelectorAll('.tokens .token')].map(token => token.classList[1])"
TEXT = "[...document.querySelectorAll('.tokens .token')].map(token => token.textContent).join('')"
ABOUT = "document.querySelector('#about').innerText"
TOLD = "document.querySelector('#told').textContent"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Page]:
    async with browsing(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Page) -> AsyncIterator[Page]:
    """A page that has thrown nothing yet, and throws nothing; what a server refuses is no problem of its own."""
    browser.problems.clear()
    browser.requests.clear()
    await browser.resize(1280, 800)
    yield browser
    # So that no request is left.
    await browser.open("about:blank")
    assert [each for each in browser.problems if "the server responded with a status of" not in each] == []


def text_of(num: int) -> str:
    return "".join(TEXTS[position % len(TEXTS)] for position in range(num))


async def opened(page: Page, served: Served) -> None:
    await page.open(served.url)
    await page.until(IS_FREE)


async def ask(page: Page, prompt: str = PROMPT, **fields: Any) -> None:
    """Ask for an answer, with these fields of the form."""
    for name, value in {"prompt": prompt, "seed": 5, "max_tokens": 24, **fields}.items():
        await page.evaluate(f"document.querySelector('#ask').elements[{name!r}].value = {json.dumps(value)}")
    await page.evaluate("document.querySelector('#ask').requestSubmit()")


async def answered(page: Page, prompt: str = PROMPT, **fields: Any) -> None:
    await ask(page, prompt, **fields)
    await page.until(f"{IS_FREE} && document.querySelector('.note').textContent")


async def click(page: Page, name: str) -> None:
    await page.evaluate(f"document.querySelector('#{name}').click()")


async def test_it_asks_nobody_else(page: Page) -> None:
    async with scripted() as served:
        await opened(page, served)
        await answered(page)
        assert {each["url"].removeprefix(served.url) for each in page.requests} >= {
            "/",
            "/v1/models",
            "/v1/completions",
        }
        assert all(each["url"].startswith(served.url) for each in page.requests)
        # It could not, either.
        policy = (await served.face.client.get("/")).headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        with pytest.raises(Exception, match="Failed to fetch"):
            await page.evaluate("fetch('http://127.0.0.1:1/')")
        page.problems.clear()


async def test_each_token_is_marked_by_where_it_came_from(page: Page) -> None:
    async with scripted() as served:
        await opened(page, served)
        await answered(page)
        expected = ["plain", *["remote"] * 3, "bonus", "remote", "recovered", *["ngram"] * 2, "bonus"]
        expected += [*["prediction"] * 4, "recovered"]
        kinds = await page.evaluate(KINDS)
        assert kinds[: len(expected)] == expected
        assert await page.evaluate(TEXT) == text_of(24)
        (request,) = served.requests
        assert (request.text, request.seed, request.max_tokens) == (PROMPT, 5, 24)
        assert request.report_cycles


async def test_marks_are_told_apart_without_colours(page: Page) -> None:
    style = "(style => style.textDecorationLine + style.textDecorationStyle)(getComputedStyle(mark))"
    async with scripted() as served:
        await opened(page, served)
        marks = await page.evaluate(f"[...document.querySelectorAll('#legend .token')].map(mark => {style})")
        assert len(marks) == len(set(marks)) == 6


async def test_figures_are_those_of_the_cycles(page: Page) -> None:
    async with scripted() as served:
        await opened(page, served)
        await answered(page)
        bars = "[...document.querySelectorAll('#acceptance li:not([hidden])')].map(bar => bar.textContent)"
        # Of two rounds of cycles, the second one ends after its fourth.
        drafted, accepted = [sum(cycle[part] for cycle in (*CYCLES, *CYCLES[:4])) for part in (1, 2)]
        assert (await page.evaluate(bars))[0] == "100"
        assert len(await page.evaluate(bars)) == 5
        assert f"of {drafted} draft tokens" in await page.evaluate("document.querySelector('#accepted').textContent")
        assert f"{100 * accepted / drafted:.0f}%" in await page.evaluate(
            "document.querySelector('#accepted').textContent"
        )
        assert await page.evaluate("document.querySelector('#wanted').value") == "2"
        assert "brings 1.25 tokens a cycle more" in await page.evaluate("document.querySelector('#why').textContent")
        # A cycle without a draft takes 20 ms.
        assert await page.evaluate("document.querySelector('#estimate').value") == "50.0"
        assert float(await page.evaluate("document.querySelector('#rate').value")) > 0


async def test_a_token_under_the_mouse_is_explained(page: Page) -> None:
    async with scripted() as served:
        await opened(page, served)
        await answered(page)
        await page.hover(".tokens .token.recovered")
        await page.until(f"{ABOUT}.includes('recovered')")
        about = await page.evaluate(ABOUT)
        assert "78%" in about  # exp(-0.25)
        assert "3: 1 of 4 draft tokens accepted" in about
        # What the draft had in its place.
        assert '"other", probability 50%, chance to be accepted 75%' in about
        assert "drafting 6, wire 7, queued 1, verifying 21 ms" in about
        # All tokens of its cycle are marked, in the text and in the strip.
        assert await page.evaluate("document.querySelectorAll('.token.marked').length") == 2
        strip = await page.evaluate("document.querySelector('#strip').ariaValueText")
        assert strip.startswith("cycle 2: 1 of 4 draft tokens accepted")


async def test_tokens_and_cycles_are_walked_through_by_keyboard(page: Page) -> None:
    async with scripted() as served:
        await opened(page, served)
        await answered(page)
        # The first stop after the link of the header.
        await page.evaluate("document.querySelector('nav a').focus()")
        await page.press("Tab", 9)
        if not await page.evaluate("document.activeElement.classList.contains('token')"):
            await page.press("Tab", 9)  # what scrolls is a stop too
        place = "Number(document.activeElement.dataset.number)"
        seen = [await page.evaluate(place)]
        for key, code in (("ArrowRight", 39), ("ArrowDown", 40), ("ArrowUp", 38), ("End", 35), ("Home", 36)):
            await page.press(key, code)
            seen.append(await page.evaluate(place))
        assert seen == [0, 1, 5, 4, 23, 0]
        assert "plain: the target's own token" in await page.evaluate(ABOUT)
        await page.evaluate("document.querySelector('#strip').focus()")
        await page.press("Home", 36)
        await page.press("ArrowRight", 39)
        assert await page.evaluate("document.querySelector('#strip').ariaValueNow") == "1"
        assert "2: 3 of 3 draft tokens accepted" in await page.evaluate(ABOUT)


async def test_a_draft_is_stopped_in_the_middle_of_a_request(page: Page) -> None:
    async with scripted(Script(hold_at=3)) as served:
        await opened(page, served)
        await ask(page)
        await page.until(f"{TEXT} === {json.dumps(text_of(7))}")
        await click(page, "switch")
        await page.until(IS_FREE)
        # It is the rest of the same text, asked for after what had come.
        assert await page.evaluate(TEXT) == text_of(24)
        assert (await page.evaluate(KINDS))[7:] == ["plain"] * 17
        first, rest = served.requests
        assert list(rest.tokens.tokens) == [0, 1, 1, *(position % len(TEXTS) for position in range(7))]
        assert (rest.seed, rest.max_tokens, rest.speculation.mode) == (first.seed, 17, OFF)
        assert rest.sampling == first.sampling
        # The first one is given up, which frees what it held.
        assert served.face.service.num_cancelled == 1
        await click(page, "compare")
        await page.until("document.querySelector('#verdict').textContent.startsWith('The same text: 24 of 24')")


async def test_a_draft_that_was_stopped_goes_on(page: Page) -> None:
    async with scripted(Script(hold_at=2)) as served:
        await opened(page, served)
        await ask(page)
        await page.until(f"{TEXT} === {json.dumps(text_of(5))}")
        served.script.hold_at = None
        served.script.max_tokens = 9
        await click(page, "switch")
        await click(page, "switch")
        await page.until(IS_FREE)
        assert served.requests[-1].speculation.mode != OFF
        assert await page.evaluate(TEXT) == text_of(9)


async def test_a_text_that_is_not_the_same_is_told(page: Page) -> None:
    script = Script(differs_at=10, summary={"exact": False})
    async with scripted(script) as served:
        await opened(page, served)
        await answered(page)
        await click(page, "compare")
        await page.until(
            "document.querySelector('#verdict').textContent.startsWith('The texts differ from token 11 on')"
        )
        assert "not exact" in await page.evaluate("document.querySelector('#verdict').textContent")
        assert await page.evaluate("document.querySelectorAll('.equal').length") == 10


async def test_stop(page: Page) -> None:
    async with scripted(Script(hold_at=1)) as served:
        await opened(page, served)
        await ask(page)
        await page.until(f"{TEXT} === {json.dumps(text_of(1))}")
        await click(page, "stop")
        await page.until(IS_FREE)
        await soon(lambda: served.face.service.num_cancelled)
        assert "1 tokens · stopped" in await page.evaluate("document.querySelector('.note').textContent")


async def test_a_chat_goes_on(page: Page) -> None:
    async with scripted(Script(max_tokens=5)) as served:
        served.face.served.target.has_chat_template = True
        try:
            await opened(page, served)
            # What it was made for comes first, without the code to go on with.
            assert await page.evaluate("document.querySelector('#ask').elements.kind.value") == "chat"
            assert await page.evaluate("document.querySelector('#prompt').value") == ""
            await answered(page, "Who is there?")
            await answered(page, "And then?")
            await page.until("document.querySelectorAll('.note').length === 2")
        finally:
            served.face.served.target.has_chat_template = False
        said = [(message.role, message.content) for message in served.requests[1].chat.messages]
        assert said == [("user", "Who is there?"), ("assistant", text_of(5)), ("user", "And then?")]


async def test_a_model_without_a_template_has_no_chat(page: Page) -> None:
    async with scripted() as served:
        await opened(page, served)
        assert await page.evaluate("document.querySelector('[value=chat]').disabled")


async def test_a_refusal_is_told_in_place(page: Page) -> None:
    refusal = ServiceError(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "too many requests wait")
    async with scripted(Script(error=refusal)) as served:
        await opened(page, served)
        await ask(page)
        await page.until(f"{TOLD} === 'too many requests wait'")
        assert await page.evaluate("document.querySelector('#told').classList.contains('bad')")
        assert await page.evaluate(IS_FREE)
        assert await page.evaluate("document.querySelector('#prompt').value") == PROMPT


async def test_an_answer_that_breaks_off_is_told_in_place(page: Page) -> None:
    """What came stays, and can be walked through."""
    failure = ServiceError(grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE", "the target is away")
    async with scripted(Script(hold_at=2, error=failure)) as served:
        await opened(page, served)
        await ask(page)
        await page.until(f"{TOLD} === 'the target is away'")
        assert await page.evaluate("document.querySelector('.note').textContent") == "the target is away"
        assert await page.evaluate(TEXT) == text_of(5)
        assert await page.evaluate(IS_FREE)


async def test_figures_are_those_of_the_answer_one_walks_in(page: Page) -> None:
    async with scripted() as served:
        await opened(page, served)
        await answered(page)
        await click(page, "compare")
        await page.until("document.querySelector('#verdict').textContent.startsWith('The same text')")
        wide = "document.querySelectorAll('#acceptance li:not([hidden])').length"
        assert await page.evaluate(wide) == 5
        await ask(page, max_tokens=5)
        await page.until(f"{IS_FREE} && document.querySelectorAll('.note').length === 2 && {wide} === 3")
        assert await page.evaluate("document.querySelector('#verdict').textContent") == ""
        await page.evaluate("document.querySelectorAll('article .token')[1].focus()")
        assert await page.evaluate(wide) == 5
        assert await page.evaluate("document.querySelector('#strip').ariaValueNow") == "1"
        assert (await page.evaluate("document.querySelector('#verdict').textContent")).startswith("The same text")


async def test_a_key_is_asked_for_and_sent(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.touch(0o600)
    file.write_text("somebody: a-key-that-is-long-enough\n")
    async with scripted(keys=ApiKeys(file)) as served:
        await page.open(served.url)
        await page.until("document.activeElement.name === 'key'")
        assert "has no key" in await page.evaluate(TOLD)
        page.requests.clear()
        await page.evaluate(
            "(key => { key.value = 'a-key-that-is-long-enough'; key.dispatchEvent(new Event('change')) })"
            "(document.activeElement)"
        )
        await page.until(f"{TOLD} === 'ready'")
        await answered(page)
        sent = {each["headers"].get("authorization") for each in page.requests}
        assert sent == {"Bearer a-key-that-is-long-enough"}
        # It is gone with the tab's storage, and nowhere else.
        assert await page.evaluate("Object.values(localStorage).length + document.cookie.length") == 0
        await page.evaluate("sessionStorage.clear()")


async def test_a_text_is_no_markup(page: Page) -> None:
    texts = ("<img src=x onerror='document.title = \"taken\"'>", "</script>", "&amp;")
    async with scripted(Script(texts=texts, max_tokens=3)) as served:
        await opened(page, served)
        await answered(page, "<b>bold</b>")
        assert await page.evaluate(TEXT) == "".join(texts)
        assert await page.evaluate("document.querySelector('.asked').textContent") == "<b>bold</b>"
        assert await page.evaluate("document.querySelectorAll('#answers img, #answers b').length") == 0


async def test_what_is_expected_is_sent_with_a_draft_alone(page: Page) -> None:
    async with scripted() as served:
        await opened(page, served)
        await answered(page, prediction="Hello world")
        await click(page, "compare")
        await page.until("document.querySelector('#verdict').textContent.startsWith('The same text')")
        drafted, plain = served.requests
        assert (drafted.prediction.text, plain.HasField("prediction")) == ("Hello world", False)


async def test_where_an_answer_is_traced(page: Page) -> None:
    script = Script(summary={"trace_id": "ab12"})
    async with scripted(script, trace_url="http://traces.example/{trace_id}") as served:
        await opened(page, served)
        await answered(page)
        assert await page.evaluate("document.querySelector('.note a').href") == "http://traces.example/ab12"


async def test_nothing_jumps_while_an_answer_comes(page: Page) -> None:
    places = (
        "[...document.querySelectorAll('#ask, #cycles, aside section')].map(each => each.getBoundingClientRect().top)"
    )
    async with scripted(Script(hold_at=4)) as served:
        await opened(page, served)
        before = await page.evaluate(places)
        await ask(page)
        await page.until(f"{TEXT} === {json.dumps(text_of(10))}")
        assert await page.evaluate(places) == before
        served.script.on.set()
        await page.until(IS_FREE)
        assert await page.evaluate(places) == before


@pytest.mark.parametrize("width", [320, 390, 800, 1280])
async def test_it_fits_every_width(page: Page, width: int) -> None:
    async with scripted() as served:
        await page.resize(width, 700, is_phone=width < 800)
        await opened(page, served)
        await answered(page)
        await page.evaluate("document.querySelector('#settings').open = true")
        await page.hover(".tokens .token.remote")
        assert await page.evaluate("document.scrollingElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_words_stand_out_from_what_is_behind_them(page: Page, scheme: str) -> None:
    contrast = Path(__file__).with_name("contrast.js").read_text()
    async with scripted() as served:
        await page.prefer(scheme)
        await opened(page, served)
        await answered(page)
        assert await page.evaluate(contrast) == []


async def test_a_long_text(page: Page) -> None:
    async with scripted(Script(max_tokens=4000)) as served:
        await opened(page, served)
        await answered(page, max_tokens=4000)
        assert await page.evaluate("document.querySelectorAll('.tokens .token').length") == 4000
        # Most of it is neither laid out nor painted again.
        assert await page.evaluate("document.querySelectorAll('.block:not(.closed) .token').length") < 100
        await page.press("End", 35)


async def test_a_server_that_is_still_starting(page: Page) -> None:
    async with scripted() as served:
        served.face.registry.is_open = False
        await page.open(served.url)
        await page.until(f"{TOLD}.includes('starting')")
        served.face.registry.is_open = True
        await page.until(f"{TOLD} === 'ready'")
