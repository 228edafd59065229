"""What a command says on stderr while it waits."""

import asyncio
import sys
from collections.abc import AsyncIterator
from functools import partial

import pytest

from orchestrator.cli import progress
from orchestrator.cli.progress import showing, waiting, watched
from services.frame.program.waiting import saying
from tests.waiting import soon


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is waited for is said at once, and again and again."""

    def at_once(say: object, *_: float, **__: float) -> object:
        return saying(say, after_s=0.0, again_s=0.0)  # type: ignore[arg-type]

    monkeypatch.setattr(progress, "saying", at_once)


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Errors":
    return Errors(capsys)


class Errors:
    """All that was written to stderr so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def text(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.mark.usefixtures("impatient")
async def test_plain_lines_tell_what_is_under_way_at_the_moment(errors: Errors) -> None:
    doing = "loading"

    async def describe() -> str:
        return f"outrider-target ({doing})"

    async with waiting(describe):
        await soon(lambda: "outrider: waiting for outrider-target (loading), for 0 s so far\n" in errors.text())
        doing = "probing"
        await soon(lambda: "outrider: waiting for outrider-target (probing), for 0 s so far\n" in errors.text())


@pytest.mark.usefixtures("impatient")
async def test_a_terminal_has_one_line_that_goes_away(errors: Errors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    async with waiting("the [orchestrator]"):
        await soon(lambda: "waiting for the [orchestrator], 0 s" in errors.text())
        print("a line of a service", file=sys.stderr)
        await soon(lambda: "a line of a service\n" in errors.text())
    text = errors.text()
    assert "outrider: waiting" not in text
    assert "\x1b[?25h" in text.rpartition("waiting for")[2], "the cursor is shown again"


@pytest.mark.usefixtures("impatient")
async def test_a_terminal_has_one_line_of_what_is_measured(errors: Errors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    doing = "plain [1]"
    async with showing(lambda since_s: f"{doing}: {since_s:.0f} s so far"):
        await soon(lambda: "plain [1]: 0 s so far" in errors.text())
        print("a run is done", file=sys.stderr)
        await soon(lambda: "a run is done\n" in errors.text())
        doing = "auto\x9b"
        await soon(lambda: "auto\\x9b: 0 s so far" in errors.text())
    assert "\x1b[?25h" in errors.text().rpartition("so far")[2], "the cursor is shown again"


@pytest.mark.usefixtures("impatient")
async def test_a_pipe_has_no_line_that_changes(errors: Errors) -> None:
    asked: list[float] = []

    def describe(since_s: float) -> str:
        asked.append(since_s)
        return "plain"

    async with showing(describe), waiting("the rest"):
        await soon(lambda: "waiting for the rest" in errors.text())
    assert not asked


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("is_terminal", [True, False], ids=["terminal", "plain lines"])
async def test_what_a_peer_says_of_itself_is_one_line_that_no_terminal_obeys(
    errors: Errors, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1" if is_terminal else "")
    monkeypatch.setenv("TERM", "xterm")
    async with waiting("the target (\x1b]0;x\x07\x9b\nis away)"):
        await soon(lambda: "waiting for the target (\\x1b]0;x\\x07\\x9b is away), " in errors.text())


async def test_nothing_is_said_of_what_is_quick(errors: Errors) -> None:
    async with waiting("the orchestrator"):
        await asyncio.sleep(0)
    assert errors.text() == ""


def _is_said_again(errors: Errors, line: str, num_said: int) -> bool:
    return errors.text().count(line) > num_said


@pytest.mark.usefixtures("impatient")
async def test_every_message_of_a_stream_is_waited_for_aloud(errors: Errors) -> None:
    may_go_on = [asyncio.Event(), asyncio.Event()]

    async def messages() -> AsyncIterator[int]:
        for number, event in enumerate(may_go_on):
            await event.wait()
            yield number

    received: list[int] = []

    async def receive() -> None:
        async for message in watched(messages(), "the orchestrator"):
            received.append(message)

    receiving = asyncio.create_task(receive())
    line = "outrider: waiting for the orchestrator, for 0 s so far\n"
    for number, event in enumerate(may_go_on):
        num_said = errors.text().count(line)
        await soon(partial(_is_said_again, errors, line, num_said))
        event.set()
        await soon(partial(received.__contains__, number))
    await receiving
    assert received == [0, 1]
