"""Whether rates as the client sees them are those that servers tell of themselves: decoding against decoding."""

import statistics
from collections.abc import Sequence
from typing import Any

from orchestrator.bench.load.streams import Stream, decode_rate

# What they may lie apart.
TOLERANCE = 0.02


def agreements(streams: Sequence[Stream]) -> list[float]:
    """Return, for each stream whose server tells the time that it decoded, our rate over its own."""
    pairs = [(decode_rate(stream), told_rate(stream.summary)) for stream in streams]
    return [ours / theirs for ours, theirs in pairs if ours and theirs]


def told_rate(summary: dict[str, Any]) -> float | None:
    """Return the tokens per second after the first one by a server's own account; None where it gives none.

    llama-server's `predicted_ms` begins with the first token, and `predicted_n` counts it.
    """
    timings = summary.get("timings", {})
    if timings.get("predicted_ms"):
        return float((timings["predicted_n"] - 1) / timings["predicted_ms"] * 1e3)
    return None


def verdict(name: str, ratios: Sequence[float]) -> dict[str, Any]:
    """Return how far apart the two rates were in the middle and at most, and whether the middle is within tolerance."""
    median = statistics.median(ratios)
    return {
        "check": name,
        "num_streams": len(ratios),
        "median_ratio": median,
        "least_ratio": min(ratios),
        "most_ratio": max(ratios),
        "is_met": abs(median - 1) <= TOLERANCE,
    }
