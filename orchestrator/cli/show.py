"""How generations and the state of an orchestrator look in a terminal, and as JSON."""

import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

from orchestrator.cli.wrapping import WordWrap
from orchestrator.peers.pair import Difference
from outrider.v1 import generation_pb2, target_pb2
from services.frame.program.printable import one_line, printable

STYLES = {
    generation_pb2.TOKEN_ORIGIN_ACCEPTED: "green",
    generation_pb2.TOKEN_ORIGIN_RECOVERED: "yellow",
    generation_pb2.TOKEN_ORIGIN_BONUS: "cyan",
}
_DRAFTERS_SHOWN = {
    generation_pb2.DRAFTER_REMOTE: "draft model",
    generation_pb2.DRAFTER_NGRAM: "lookup",
    generation_pb2.DRAFTER_PREDICTION: "prediction",
    generation_pb2.DRAFTER_NONE: "none, plain decoding",
}
_NAMES = {
    generation_pb2.TOKEN_ORIGIN_ACCEPTED: "accepted draft token",
    generation_pb2.TOKEN_ORIGIN_RECOVERED: "recovered",
    generation_pb2.TOKEN_ORIGIN_BONUS: "bonus",
}


async def show(messages: AsyncIterator[generation_pb2.GenerateResponse], prompt: str, out: Console) -> str:
    """Print the text as it comes, coloured by origin where `out` is a terminal, and a summary on stderr; return it."""
    text = ""
    async for message in messages:
        # Not before there is an answer: a refusal is all that is to be seen then.
        _write(out, prompt, "bold")
        prompt = ""
        text += message.chunk.text
        if message.HasField("chunk"):
            for token in message.chunk.tokens:
                _write(out, token.text, STYLES.get(token.origin, ""))
            if not message.chunk.tokens:
                _write(out, message.chunk.text)
        else:
            _write_summary(out, message.summary)
    return text


async def show_answer(
    messages: AsyncIterator[generation_pb2.GenerateResponse], said: target_pb2.ChatMessage, out: Console
) -> target_pb2.ChatMessage:
    """Print an answer of a chat as `show` does, what was thought dimmed and apart, and no word of it on two lines.

    It is added to `said` as it comes, so that what has come is there whatever ends it; `said` is returned.
    """
    prose = WordWrap(partial(_write, out), lambda: out.width if _is_terminal(out) else sys.maxsize)
    try:
        async for message in messages:
            if message.HasField("chunk"):
                _add_chunk(prose, message.chunk, said)
            else:
                prose.flush()
                _write_summary(out, message.summary)
    finally:
        prose.flush()
    return said


def _add_chunk(prose: WordWrap, chunk: generation_pb2.GenerateChunk, said: target_pb2.ChatMessage) -> None:
    prose.add(chunk.reasoning, "dim")
    if chunk.content and said.reasoning and not said.content:
        prose.add("\n\n", "")
    if chunk.content == chunk.text:
        for token in chunk.tokens:
            prose.add(token.text, STYLES.get(token.origin, ""))
    if chunk.content != chunk.text or not chunk.tokens:
        prose.add(chunk.content, "")
    said.reasoning += chunk.reasoning
    said.content += chunk.content


def _write_summary(out: Console, summary: generation_pb2.GenerateSummary) -> None:
    out.print()
    line = summary_line(summary, with_legend=_has_colours(out))
    err = Console(stderr=True, highlight=False)
    # A terminal would break words, and elsewhere a line is a line.
    err.print(line, soft_wrap=not err.is_terminal)


def _write(out: Console, text: str, style: str = "") -> None:
    """Write text as it is, but for a terminal: there it has a style, and nothing of it is obeyed."""
    if _is_terminal(out):
        # Not a Text: rich would count its tabs from where it begins.
        out.print(Segments([Segment(printable(text), Style.parse(style))]), end="", soft_wrap=True)
    else:
        out.file.write(text)
        out.file.flush()


def _is_terminal(out: Console) -> bool:
    # The environment can tell rich that a terminal is none.
    return out.is_terminal or out.file.isatty()


def _has_colours(out: Console) -> bool:
    return out.color_system is not None and not out.no_color


async def collect(messages: AsyncIterator[generation_pb2.GenerateResponse]) -> dict[str, Any]:
    """Return the whole answer as JSON values: `text` and the fields of the summary."""
    text = ""
    summary = generation_pb2.GenerateSummary()
    async for message in messages:
        if message.HasField("chunk"):
            text += message.chunk.text
        else:
            summary = message.summary
    return {"text": text} | to_json(summary)


def to_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON values, with its own field names and with the fields that are zero."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def status_table(reply: generation_pb2.GetStatusResponse) -> Table:
    """Return the services and what speculation did since the orchestrator started."""
    columns = (Column(header, overflow="fold") for header in ("", "address", "model", "state"))
    table = Table(*columns, box=None, pad_edge=False)
    services = [("target", reply.target)] if reply.HasField("target") else []
    # An orchestrator of an earlier version tells of one draft.
    drafts = reply.drafts or ([reply.draft] if reply.HasField("draft") else [])
    for name, service in [*services, *(("draft", draft) for draft in drafts)]:
        model = f"{service.model.name} {service.model.quantization}"
        state = service.reason or f"available, at most {service.model.max_draft_tokens} draft tokens a cycle"
        cells = (name, service.address, model, state)
        # Texts, as rich looks for markup in strings.
        table.add_row(*(Text(one_line(cell)) for cell in cells))
        for note in service.notes:
            table.add_row("", "", "", Text(one_line(note)))
    counts = reply.speculation
    table.add_row("drafter", "", "", _DRAFTERS_SHOWN.get(reply.drafter, ""))
    table.add_row("generations", "", "", f"{reply.num_active} under way")
    for drafter in counts.drafters:
        rate = drafter.num_accepted_tokens / drafter.num_draft_tokens
        state = f"{drafter.num_draft_tokens} draft tokens, {rate:.0%} accepted"
        table.add_row(_DRAFTERS_SHOWN.get(drafter.drafter, ""), "", "", state)
    if counts.num_skipped_tokens:
        table.add_row("", "", "", f"{counts.num_skipped_tokens} draft tokens not worth their rows")
    if reply.HasField("choice"):
        table.add_row("last choice", "", "", Text(_choice_sentence(reply.choice)))
    if counts.speedup:
        table.add_row("speedup", "", "", f"{counts.speedup:.2f} times plain decoding, as modelled")
    table.add_row("fallbacks, resyncs", "", "", f"{counts.num_fallbacks}, {counts.num_resyncs}")
    return table


def _choice_sentence(choice: generation_pb2.LengthChoice) -> str:
    """Return how many draft tokens were wanted, and what that was chosen by."""
    number = f"{choice.num_draft_tokens} draft tokens" if choice.num_draft_tokens else "no draft"
    if choice.draft_address:
        number += f" of the one at {one_line(choice.draft_address)}"
    return (
        f"{number}, worth {choice.worth:.2f} tokens a cycle: {choice.chance:.0%} are accepted, a draft takes "
        f"{choice.draft_ms:.1f} ms and {choice.token_ms:.1f} ms a token, a row {choice.row_ms:.1f} ms"
    )


def pair_lines(found: Sequence[Difference]) -> list[str]:
    """Return whether a draft fits, and every difference, those that do harm first."""
    harmful = [difference for difference in found if difference.is_harmful]
    verdict = "the draft does not fit the target" if harmful else "the draft fits the target"
    harmless = [difference for difference in found if not difference.is_harmful]
    told = [f"  {one_line(difference.sentence)}" for difference in harmful]
    told += [f"  no harm: {one_line(difference.sentence)}" for difference in harmless]
    return [f"{verdict}:" if told else verdict, *told]


def summary_line(summary: generation_pb2.GenerateSummary, *, with_legend: bool = True) -> Text:
    """Return tokens/s, acceptance rate, mean accepted length and target passes saved, after a legend of the colours."""
    counts = summary.speculation
    num_tokens = summary.usage.num_generated_tokens
    parts = [f"{num_tokens} tokens", f"{num_tokens / summary.timings.total_ms * 1e3:.1f} tokens/s"]
    if counts.num_draft_tokens:
        by_text = [drafter for drafter in counts.drafters if drafter.drafter != generation_pb2.DRAFTER_REMOTE]
        rate = counts.num_accepted_tokens / counts.num_draft_tokens
        parts += [
            f"{rate:.0%} of {counts.num_draft_tokens} draft tokens accepted",
            *(
                f"{each.num_accepted_tokens} of {each.num_draft_tokens} by {_DRAFTERS_SHOWN.get(each.drafter, '?')}"
                for each in by_text
            ),
            f"mean accepted length {1 + counts.num_accepted_tokens / counts.num_cycles:.2f}",
            f"{num_tokens - counts.num_cycles} of {num_tokens} target passes saved",
        ]
    else:
        parts.append("plain decoding, no draft")
    if summary.finish_reason == generation_pb2.FINISH_REASON_CONTEXT_FULL:
        parts.insert(0, "the context is full")
    if summary.draft_problem:
        parts.append(f"without the draft service ({one_line(summary.draft_problem)})")
    parts += ["exact" if summary.exact else "not exact", f"seed {summary.seed}"]
    line = Text("\n")
    if counts.num_draft_tokens and with_legend:
        for origin, name in _NAMES.items():
            line.append(name, STYLES[origin]).append("  ")
        line.append("\n")
    return line.append(", ".join(parts))
