"""What the services' own summaries say of the streams of a run."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import Any

from orchestrator.bench.load.prompts import Prompt
from orchestrator.bench.load.streams import Stream

COUNTS = ("num_cycles", "num_drafts", "num_draft_tokens", "num_accepted_tokens", "num_resyncs", "num_fallbacks")
_TIMES = ("target", "draft")


def count(streams: Sequence[Stream], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return counts of all streams together, and what follows from them; nothing where the system tells none.

    Target passes a token are cycles a token: each is one pass for its own stream, whomever it shares the decode with.
    """
    summaries = [stream.summary for stream in streams if "speculation" in stream.summary]
    if not summaries:
        return {}
    counts = [summary["speculation"] for summary in summaries]
    total: dict[str, Any] = {name: sum(each[name] for each in counts) for name in COUNTS}
    num_tokens = sum(summary["usage"]["num_generated_tokens"] for summary in summaries)
    positions = zip_longest(*(each["num_accepted_per_position"] for each in counts), fillvalue=0)
    total |= {
        "passes_per_token": total["num_cycles"] / num_tokens,
        "accepted_per_position": [sum(each) / total["num_drafts"] for each in positions],
        "accepted_by_kind": _by_kind(streams, prompts),
        "is_exact": all(summary["exact"] for summary in summaries),
    }
    if (wire_ms := _wire_ms(summaries)) is not None:
        total["wire_ms_per_cycle"] = wire_ms / total["num_cycles"]
    return total


def _by_kind(streams: Iterable[Stream], prompts: Iterable[Prompt]) -> dict[str, float]:
    """Return the part of draft tokens that was accepted, by the kind of the prompt."""
    drafted: dict[str, int] = defaultdict(int)
    accepted: dict[str, int] = defaultdict(int)
    for stream, prompt in zip(streams, prompts, strict=True):
        counts = stream.summary.get("speculation", {})
        drafted[prompt.kind] += counts.get("num_draft_tokens", 0)
        accepted[prompt.kind] += counts.get("num_accepted_tokens", 0)
    return {kind: accepted[kind] / num for kind, num in drafted.items() if num}


def _wire_ms(summaries: Sequence[dict[str, Any]]) -> float | None:
    """Return what waiting for the services took beyond their own accounts; None where those leave the queue out."""
    timings = [summary["timings"] for summary in summaries]
    if not any(each.get("target_queued_ms") for each in timings):
        return None
    return float(
        sum(
            each[f"{name}_ms"] - each[f"{name}_queued_ms"] - each[f"{name}_computed_ms"]
            for each in timings
            for name in _TIMES
        )
    )
