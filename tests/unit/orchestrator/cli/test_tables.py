"""What is told of a generation, of an orchestrator and of a pair: lines and tables."""

import io
from typing import Any

from rich.console import Console

from orchestrator.cli.show import pair_lines, status_table, summary_line
from orchestrator.peers.pair import Difference
from outrider.v1 import common_pb2, generation_pb2
from tests.unit.orchestrator.cli.summaries import summary


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


def test_status_has_every_draft() -> None:
    first = generation_pb2.ServiceStatus(address="there:2", is_available=True)
    second = generation_pb2.ServiceStatus(address="yonder:3", reason="it does not fit")
    choice = generation_pb2.LengthChoice(num_draft_tokens=3, draft_address="[::1]:3")
    out = io.StringIO()
    reply = generation_pb2.GetStatusResponse(draft=first, drafts=[first, second], choice=choice)
    Console(file=out, width=200).print(status_table(reply))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert [line for line in lines if line.startswith("draft ")] == [
        "draft there:2 available, at most 0 draft tokens a cycle",
        "draft yonder:3 it does not fit",
    ]
    assert any(line.startswith("last choice 3 draft tokens of the one at [::1]:3, worth") for line in lines)


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
