"""What is counted of the decodes that served streams."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from orchestrator.bench.load.streams import NoSteadyStateError, Window


class Decode(NamedTuple):
    """One decode of a service: when it ran, and the rows of each session in it."""

    start_s: float
    end_s: float
    sessions: Sequence[tuple[str, int]]
    is_verification: bool


def read_decodes(lines: Iterable[str]) -> list[Decode]:
    """Read what a recording service wrote, one JSON object a line."""
    return [_decode(json.loads(line)) for line in lines]


def _decode(values: dict[str, Any]) -> Decode:
    sessions = [(str(name), int(num_rows)) for name, num_rows in values["sessions"]]
    return Decode(values["start_s"], values["end_s"], sessions, values["is_verification"])


def within(decodes: Iterable[Decode], window: Window) -> list[Decode]:
    """Return the decodes that lie in the window as a whole."""
    return [decode for decode in decodes if window.start_s <= decode.start_s and decode.end_s <= window.end_s]


def meeting(decodes: Iterable[Decode], window: Window) -> dict[str, Any]:
    """Say how many sessions met in the window's decodes with verifications: the mean, and how often how many.

    Raises NoSteadyStateError where there was no such decode.
    """
    verifying = [decode for decode in within(decodes, window) if decode.is_verification]
    if not verifying:
        raise NoSteadyStateError("no decode with a verification in the steady state: ask for more tokens")
    counts = Counter(len(decode.sessions) for decode in verifying)
    num_rows = sum(rows for decode in verifying for _, rows in decode.sessions)
    busy_s = sum(decode.end_s - decode.start_s for decode in verifying)
    return {
        "sessions_per_decode": sum(num * times for num, times in counts.items()) / len(verifying),
        "rows_per_decode": num_rows / len(verifying),
        "num_decodes": len(verifying),
        "decode_ms": busy_s / len(verifying) * 1e3,
        "decoding_share": busy_s / (window.end_s - window.start_s),
        "decodes_by_num_sessions": {str(num): counts[num] for num in sorted(counts)},
    }
