"""How a generation looks: exactly its text in a pipe, coloured in a terminal, one object as JSON."""

import io
from collections.abc import AsyncIterator

import pytest
from rich.console import Console

from orchestrator.cli.show import collect, show, show_answer
from outrider.v1 import generation_pb2, target_pb2
from tests.unit.orchestrator.cli.summaries import summary

ACCEPTED = generation_pb2.TOKEN_ORIGIN_ACCEPTED
RECOVERED = generation_pb2.TOKEN_ORIGIN_RECOVERED
BONUS = generation_pb2.TOKEN_ORIGIN_BONUS


async def answer(*texts: str, rest: str = "") -> AsyncIterator[generation_pb2.GenerateResponse]:
    """One chunk with a token of each text, what was held back, and a summary."""
    origins = (ACCEPTED, RECOVERED, BONUS)
    tokens = [generation_pb2.GeneratedToken(text=text, origin=origins[index % 3]) for index, text in enumerate(texts)]
    yield generation_pb2.GenerateResponse(chunk=generation_pb2.GenerateChunk(text="".join(texts), tokens=tokens))
    if rest:
        yield generation_pb2.GenerateResponse(chunk=generation_pb2.GenerateChunk(text=rest))
    yield generation_pb2.GenerateResponse(summary=summary())


@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(["a", "b", "c"], id="letters"),
        pytest.param(["if x:\n", "\treturn\t", "1\r\n"], id="tabs and line breaks"),
        pytest.param(["x" * 500, " " * 300, "y\n\n\n"], id="longer than a line"),
        pytest.param(["[bold]", "[/bold]", ":smile:"], id="what looks like markup"),
        pytest.param(["\0", "\x07\x08", "\x1b[31m"], id="control characters"),
        pytest.param(["", "😀", "日本語"], id="wide characters"),
        pytest.param([" ", "", "\n"], id="blanks at the end"),
    ],
)
@pytest.mark.parametrize("prompt", ["", "def main():\n\t"])
async def test_a_pipe_gets_exactly_the_text(capsys: pytest.CaptureFixture[str], texts: list[str], prompt: str) -> None:
    out = io.StringIO()
    told = await show(answer(*texts, rest="rest"), prompt, Console(file=out, highlight=False))
    assert told == "".join(texts) + "rest"
    assert out.getvalue() == prompt + told + "\n"
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "10 tokens, 20.0 tokens/s" in printed.err


async def test_a_terminal_shows_where_tokens_came_from() -> None:
    out = io.StringIO()
    console = Console(file=out, highlight=False, force_terminal=True, color_system="standard", width=80)
    await show(answer("one", "two", "three"), "prompt", console)
    written = out.getvalue()
    assert "\x1b[1mprompt\x1b[0m" in written
    for text, colour in (("one", 32), ("two", 33), ("three", 36)):
        assert f"\x1b[{colour}m{text}\x1b[0m" in written


async def test_a_terminal_is_not_at_the_mercy_of_the_text() -> None:
    out = io.StringIO()
    console = Console(file=out, highlight=False, force_terminal=True, color_system=None, width=80)
    await show(answer("a\x07\x7f", "\x1b[2J", "\x9b2J\u202e", "\tb\n"), "\x1b]0;x\x07", console)
    assert out.getvalue() == "\\x1b]0;x\\x07a\\x07\\x7f\\x1b[2J\\x9b2J\\u202e\tb\n\n"


async def test_a_tab_is_the_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    """Where it goes depends on all that stands before it in the line, which other tokens may have brought."""
    out = io.StringIO()
    console = Console(file=out, highlight=False, force_terminal=True, color_system=None, width=80)
    await show(answer("if", "\t", "x\t"), "", console)
    assert out.getvalue() == "if\tx\t\n"


async def test_an_answer_of_a_chat_goes_on_as_what_was_thought_and_said() -> None:
    async def messages() -> AsyncIterator[generation_pb2.GenerateResponse]:
        for text, content, reasoning in [
            ("<think>", "", ""),
            ("hm", "", "hm"),
            ("</think>yes", "yes", ""),
            ("!", "!", ""),
        ]:
            token = generation_pb2.GeneratedToken(text=text)
            chunk = generation_pb2.GenerateChunk(text=text, tokens=[token], content=content, reasoning=reasoning)
            yield generation_pb2.GenerateResponse(chunk=chunk)
        yield generation_pb2.GenerateResponse(summary=summary())

    out = io.StringIO()
    said = await show_answer(messages(), target_pb2.ChatMessage(role="assistant"), Console(file=out, highlight=False))
    assert (said.role, said.content, said.reasoning) == ("assistant", "yes!", "hm")
    assert out.getvalue() == "hm\n\nyes!\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("is_terminal", "expected"), [(True, "the queen\nlays"), (False, "the queen lays")])
async def test_an_answer_that_is_cut_off_is_shown_up_to_there(is_terminal: bool, expected: str) -> None:
    """In a terminal no word of it is on two lines; elsewhere it is exactly what was said."""

    async def messages() -> AsyncIterator[generation_pb2.GenerateResponse]:
        for text in ("the que", "en la", "ys"):
            token = generation_pb2.GeneratedToken(text=text)
            chunk = generation_pb2.GenerateChunk(text=text, tokens=[token], content=text)
            yield generation_pb2.GenerateResponse(chunk=chunk)
        raise ConnectionError

    out = Terminal() if is_terminal else io.StringIO()
    said = target_pb2.ChatMessage(role="assistant")
    with pytest.raises(ConnectionError):
        await show_answer(messages(), said, Console(file=out, highlight=False, width=12, color_system=None))
    assert out.getvalue() == expected
    assert said.content == "the queen lays"


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
async def test_a_terminal_that_the_environment_denies_is_one(name: str) -> None:
    """rich takes an empty FORCE_COLOR, and TTY_COMPATIBLE=0, as word that nobody looks."""
    out = Terminal()
    value = {"FORCE_COLOR": "", "TTY_COMPATIBLE": "0"}[name]
    console = Console(file=out, highlight=False, width=80, _environ={name: value, "TERM": "xterm"})
    await show(answer("\x1b[2J"), "", console)
    assert "\\x1b[2J" in out.getvalue()


@pytest.mark.parametrize(
    ("environment", "has_legend"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
async def test_the_legend_is_for_colours(
    capsys: pytest.CaptureFixture[str], environment: dict[str, str], has_legend: bool
) -> None:
    async def drafted() -> AsyncIterator[generation_pb2.GenerateResponse]:
        yield generation_pb2.GenerateResponse(summary=summary(num_cycles=4, num_draft_tokens=8, num_accepted_tokens=6))

    console = Console(file=Terminal(), highlight=False, _environ={"TERM": "xterm", **environment})
    await show(drafted(), "", console)
    assert ("recovered" in capsys.readouterr().err) == has_legend


async def test_json_has_the_text_and_every_field_of_the_summary() -> None:
    collected = await collect(answer("a", "b", rest="c"))
    assert collected["text"] == "abc"
    counts = ("num_prompt_tokens", "num_generated_tokens", "num_cached_prompt_tokens", "num_reasoning_tokens")
    assert collected["usage"] == dict(zip(counts, (3, 10, 0, 0), strict=True))
    assert collected["seed"] == str(2**64 - 1), "as protobuf's JSON writes 64-bit numbers"
    assert collected["speculation"]["num_fallbacks"] == 0
