"""How a generation looks: exactly its text in a pipe, coloured in a terminal, one object as JSON."""

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from rich.console import Console

from orchestrator.cli.client import (
    collect,
    fetch_status,
    generate,
    pair_lines,
    show,
    show_answer,
    status_table,
    summary_line,
)
from orchestrator.peers.pair import Difference
from orchestrator.peers.target import target_unavailable
from outrider.v1 import common_pb2, generation_pb2, generation_pb2_grpc, target_pb2
from services.frame.rpc.errors import ServiceError, abort
from tests.ports import free_port

ACCEPTED = generation_pb2.TOKEN_ORIGIN_ACCEPTED
RECOVERED = generation_pb2.TOKEN_ORIGIN_RECOVERED
BONUS = generation_pb2.TOKEN_ORIGIN_BONUS


def summary(**speculation: Any) -> generation_pb2.GenerateSummary:
    return generation_pb2.GenerateSummary(
        usage=generation_pb2.Usage(num_prompt_tokens=3, num_generated_tokens=10),
        timings=generation_pb2.GenerationTimings(total_ms=500.0),
        speculation=generation_pb2.SpeculationStatistics(**speculation),
        seed=2**64 - 1,
    )


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
    assert collected["usage"] == {"num_prompt_tokens": 3, "num_generated_tokens": 10}
    assert collected["seed"] == str(2**64 - 1), "as protobuf's JSON writes 64-bit numbers"
    assert collected["speculation"]["num_fallbacks"] == 0


def test_the_summary_of_a_drafted_text() -> None:
    counts: dict[str, Any] = {"num_drafts": 4, "num_draft_tokens": 8, "num_accepted_tokens": 6}
    remote = generation_pb2.DrafterStatistics(drafter=generation_pb2.DRAFTER_REMOTE, **counts)
    line = summary_line(summary(num_cycles=4, drafters=[remote], **counts)).plain
    assert "75% of 8 draft tokens accepted" in line
    assert "mean accepted length 2.50" in line
    assert "6 of 10 target passes saved" in line
    assert line.endswith(", not exact, seed 18446744073709551615")
    assert "lookup" not in line
    assert "recovered" in line


def test_the_summary_names_no_colours_where_there_are_none() -> None:
    counts: dict[str, Any] = {"num_cycles": 4, "num_draft_tokens": 8, "num_accepted_tokens": 6}
    assert "recovered" not in summary_line(summary(**counts), with_legend=False).plain


def test_the_summary_of_an_exact_text() -> None:
    message = summary(num_cycles=10)
    message.exact = True
    assert ", exact, seed " in summary_line(message).plain


def test_the_summary_of_a_text_that_the_context_ended() -> None:
    message = summary(num_cycles=10)
    assert "context" not in summary_line(message).plain
    message.finish_reason = generation_pb2.FINISH_REASON_CONTEXT_FULL
    assert summary_line(message).plain.startswith("\nthe context is full, 10 tokens, ")


def test_the_summary_tells_what_lookup_did() -> None:
    drafters = [
        generation_pb2.DrafterStatistics(drafter=drafter, num_drafts=1, num_draft_tokens=drafted, num_accepted_tokens=3)
        for drafter, drafted in ((generation_pb2.DRAFTER_NGRAM, 3), (generation_pb2.DRAFTER_REMOTE, 5))
    ]
    counts = summary(num_cycles=4, num_drafts=2, num_draft_tokens=8, num_accepted_tokens=6, drafters=drafters)
    assert "75% of 8 draft tokens accepted, 3 of 3 by lookup, " in summary_line(counts).plain


def test_the_summary_of_a_plain_text() -> None:
    line = summary_line(summary(num_cycles=10)).plain
    assert "plain decoding, no draft" in line
    assert "accepted" not in line


def test_the_status_obeys_no_name() -> None:
    """Neither does a terminal, nor does rich, to which [red] and :smile: mean something."""
    out = io.StringIO()
    model = common_pb2.ModelInfo(name="[red]:smile:\x1b[31m\x9b", quantization="F16")
    reply = generation_pb2.GetStatusResponse(
        target=generation_pb2.ServiceStatus(address="[b]:1", is_available=True, model=model),
        draft=generation_pb2.ServiceStatus(address="there:2", reason="[i]away[/i]\nand\u2028gone\u202e"),
    )
    Console(file=out, width=160, force_terminal=True, color_system=None).print(status_table(reply))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "target [b]:1 [red]:smile:\\x1b[31m\\x9b F16 available, at most 0 draft tokens a cycle" in lines
    assert "draft there:2 [i]away[/i] and gone\\u202e" in lines


def test_the_status_tells_long_names_to_their_end() -> None:
    out = io.StringIO()
    model = common_pb2.ModelInfo(name="x" * 100 + "y")
    service = generation_pb2.ServiceStatus(address="here:1", is_available=True, model=model)
    Console(file=out, width=80).print(status_table(generation_pb2.GetStatusResponse(target=service)))
    assert "".join(line[20:60] for line in out.getvalue().splitlines()).replace(" ", "").count("x") >= 100
    assert "y" in out.getvalue()


def test_the_status() -> None:
    out = io.StringIO()
    model = common_pb2.ModelInfo(name="tiny", quantization="F32", max_draft_tokens=16)
    lookup = generation_pb2.DrafterStatistics(
        drafter=generation_pb2.DRAFTER_NGRAM, num_drafts=1, num_draft_tokens=4, num_accepted_tokens=3
    )
    reply = generation_pb2.GetStatusResponse(
        target=generation_pb2.ServiceStatus(address="here:1", is_available=True, model=model),
        draft=generation_pb2.ServiceStatus(address="there:2", reason="it is away"),
        num_active=3,
        speculation=generation_pb2.SpeculationStatistics(drafters=[lookup]),
        drafter=generation_pb2.DRAFTER_NGRAM,
    )
    Console(file=out, width=120).print(status_table(reply))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "target here:1 tiny F32 available, at most 16 draft tokens a cycle" in lines
    assert "draft there:2 it is away" in lines
    assert "drafter lookup" in lines
    assert "generations 3 under way" in lines
    assert "lookup 4 draft tokens, 75% accepted" in lines


class Failing(generation_pb2_grpc.GenerationServiceServicer):
    """Ends every call with an error."""

    def __init__(self, error: ServiceError) -> None:
        self._error = error

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[generation_pb2.GenerateResponse]:
        await abort(context, self._error)
        yield generation_pb2.GenerateResponse()

    async def GetStatus(self, request: Any, context: Any) -> generation_pb2.GetStatusResponse:
        await abort(context, self._error)


@asynccontextmanager
async def serving(servicer: generation_pb2_grpc.GenerationServiceServicer | None) -> AsyncIterator[str]:
    """The address of a server; it knows no method without a servicer."""
    server = grpc.aio.server()
    if servicer is not None:
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def _refusals(address: str) -> list[ServiceError]:
    """What the two calls of the command line say of a server."""
    with pytest.raises(ServiceError) as generating:
        await collect(generate(address, generation_pb2.GenerateRequest()))
    with pytest.raises(ServiceError) as asking:
        await fetch_status(address)
    return [generating.value, asking.value]


async def test_an_orchestrator_that_has_lost_its_target_is_one_that_answers() -> None:
    """Whatever the words, and whatever became of the target: they are the orchestrator's own."""
    away = target_unavailable("the target has been away for 10 s: failed to connect to all addresses")
    passed_on = ServiceError(grpc.StatusCode.UNIMPLEMENTED, "RPC_UNIMPLEMENTED", "Method not found!")
    for expected in (away, passed_on):
        async with serving(Failing(expected)) as address:
            for error in await _refusals(address):
                assert (error.reason, error.message) == (expected.reason, expected.message)


async def test_nobody_answers() -> None:
    address = f"127.0.0.1:{free_port()}"
    for error in await _refusals(address):
        assert error.reason == "UNREACHABLE"
        assert error.message.startswith(f"no orchestrator answers at {address} (")
        assert "Connection refused" in error.message
        assert error.message.endswith("): start one with `outrider serve`, or name another --address")


async def test_something_else_answers() -> None:
    async with serving(None) as address:
        for error in await _refusals(address):
            assert error.message.startswith(f"what answers at {address} is no orchestrator (")


class Cut(generation_pb2_grpc.GenerationServiceServicer):
    """Ends every generation with a status and no word of ours, after some chunks."""

    def __init__(self, code: grpc.StatusCode, num_chunks: int) -> None:
        self._code = code
        self._num_chunks = num_chunks

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[generation_pb2.GenerateResponse]:
        for _ in range(self._num_chunks):
            yield generation_pb2.GenerateResponse(chunk=generation_pb2.GenerateChunk(text="a"))
        await context.abort(self._code, "it was cut")


@pytest.mark.parametrize("code", ["UNAVAILABLE", "UNKNOWN", "INTERNAL"])
@pytest.mark.parametrize("num_chunks", [0, 1])
async def test_a_proxy_that_cuts_a_generation(code: str, num_chunks: int) -> None:
    """As nginx does with 502, 504 and RST_STREAM."""
    servicer = Cut(grpc.StatusCode[code], num_chunks)  # type: ignore[abstract]  # nobody asks it for its status
    async with serving(servicer) as address:
        with pytest.raises(ServiceError) as info:
            await collect(generate(address, generation_pb2.GenerateRequest()))
    assert info.value.message.startswith(
        f"the orchestrator at {address} was lost (it was cut): "
        if num_chunks
        else f"no orchestrator answers at {address} (it was cut): "
    )


def test_a_summary_says_what_kept_the_draft_from_being_used() -> None:
    told = summary(num_cycles=10)
    assert "draft service" not in str(summary_line(told))
    told.draft_problem = "its context\nis full"
    assert "plain decoding, no draft, without the draft service (its context is full), " in str(summary_line(told))


def test_status_has_the_notes_of_a_service() -> None:
    notes = ["token 1 '</s>' ends a generation in the target only", "the last request went on without it: it is full"]
    reply = generation_pb2.GetStatusResponse(draft=generation_pb2.ServiceStatus(is_available=True, notes=notes))
    out = io.StringIO()
    Console(file=out, width=200).print(status_table(reply))
    for note in notes:
        assert note in out.getvalue()


def test_a_pair_is_told_with_all_differences() -> None:
    harmless, harmful = Difference("an end"), Difference("another text", is_harmful=True)
    assert pair_lines([]) == ["the draft fits the target"]
    assert pair_lines([harmless]) == ["the draft fits the target:", "  no harm: an end"]
    assert pair_lines([harmless, harmful]) == [
        "the draft does not fit the target:",
        "  another text",
        "  no harm: an end",
    ]
