"""The anatomy of a cycle: where a token's time went, as a table and drawn over time.

`python -m orchestrator.bench.anatomy FILE` reads a file of spans of our services (`spans`), and prints the table in
Markdown, or with `--json` as one line. Where draft tokens were given chances, what came of these follows
(`reliability`). `--plot PATH` draws which sessions were in which decode.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from orchestrator.bench.cycles import DRAFT, ORCHESTRATOR, PARTS, REST, TARGET, Cycle, Decode, cycles_of
from orchestrator.bench.reliability import reliability, reliability_table
from orchestrator.bench.spans import SpanFileError, read_spans
from orchestrator.bench.timeline import PlotError, draw_timeline
from services.frame.program.output import say
from services.frame.program.startup import Parser

PROGRAM = "python -m orchestrator.bench.anatomy"


class NoCyclesError(ValueError):
    """There is nothing to part: the spans hold no cycle that follows the one that reads the prompt."""


def anatomy(cycles: Sequence[Cycle]) -> dict[str, Any]:
    """Return where the time of cycles went, for JSON: means over all cycles but those that read a prompt.

    `parts_ms` has the milliseconds of a cycle's parts, by who spends them and on what; they add up to `cycle_ms`.
    `last_ms` has the same for the session that came last to each decode of the target: others wait for it, so that its
    cycle is what the decodes' rate depends on. Raises NoCyclesError.
    """
    steady = [cycle for cycle in cycles if cycle.index]
    if not steady:
        raise NoCyclesError("no cycle follows the one that reads the prompt: trace cycles of more than one token")
    decodes = _decodes(steady)
    last = [max(members, key=_submitted_ns) for members in decodes.values()]
    return {
        "num_sessions": len({cycle.session for cycle in steady}),
        "num_cycles": len(steady),
        "tokens_per_cycle": fmean(cycle.num_tokens for cycle in steady),
        "cycle_ms": fmean(cycle.duration_ms for cycle in steady),
        "parts_ms": _mean_parts(steady),
        "last_ms": _mean_parts(last) if last else {},
        "decodes": _told_of_decodes(decodes) if decodes else {},
    }


def _decodes(cycles: Iterable[Cycle]) -> dict[int, list[Cycle]]:
    """Return the cycles that were verified by each decode of the target."""
    found: dict[int, list[Cycle]] = defaultdict(list)
    for cycle in cycles:
        if decode := _decode(cycle):
            found[decode.index].append(cycle)
    return found


def _decode(cycle: Cycle) -> Decode | None:
    return cycle.target.decode if cycle.target else None


def _submitted_ns(cycle: Cycle) -> int:
    return (cycle.target and cycle.target.submitted_ns) or 0


def _mean_parts(cycles: Sequence[Cycle]) -> dict[str, dict[str, float]]:
    """Return the mean of each part that any of the cycles has, in the order of a cycle."""
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for cycle in cycles:
        for part, ms in cycle.parts.items():
            sums[part] += ms
    sides = {ORCHESTRATOR: [ORCHESTRATOR], DRAFT: list(PARTS), TARGET: list(PARTS)}
    return {
        side: {part: sums[side, part] / len(cycles) for part in parts if (side, part) in sums}
        for side, parts in sides.items()
    }


def _told_of_decodes(decodes: Mapping[int, Sequence[Cycle]]) -> dict[str, float]:
    """Return what the target's decodes were like, and the share of the time in which one was under way."""
    found = [decode for members in decodes.values() if (decode := _decode(members[0]))]
    busy_ns = sum(decode.ended_ns - decode.started_ns for decode in found)
    began_ns, ended_ns = min(decode.started_ns for decode in found), max(decode.ended_ns for decode in found)
    return {
        "num_decodes": len(found),
        "sessions_per_decode": fmean(len(members) for members in decodes.values()),
        "rows_per_decode": fmean(decode.num_rows for decode in found),
        "decode_ms": busy_ns / len(found) / 1e6,
        "share": busy_ns / (ended_ns - began_ns),
    }


def table(found: Mapping[str, Any]) -> str:
    """Return an anatomy in Markdown."""
    cycle_ms, num_tokens = found["cycle_ms"], found["tokens_per_cycle"]
    last = found["last_ms"]
    lines = ["| | ms a cycle | ms a token | share | ms of the last to come |", "|---|---|---|---|---|"]
    for side, parts in found["parts_ms"].items():
        for part, ms in parts.items():
            last_ms = last.get(side, {}).get(part, 0.0)
            if max(abs(ms), abs(last_ms)) >= 0.005 or part == REST:
                name = side if part == side else f"{side}: {part}"
                figures = (_told(ms), _told(ms / num_tokens), f"{round(ms / cycle_ms, 3) + 0.0:.1%}", _told(last_ms))
                lines.append(f"| {name} | {' | '.join(figures)} |")
    last_sum_ms = sum(ms for parts in last.values() for ms in parts.values())
    lines.append(f"| cycle | {cycle_ms:.2f} | {cycle_ms / num_tokens:.2f} | 100.0% | {last_sum_ms:.2f} |")
    sentences = [f"{found['num_cycles']} cycles of {found['num_sessions']} requests, {num_tokens:.2f} tokens each."]
    if decodes := found["decodes"]:
        sentences.append(
            f"{decodes['num_decodes']} decodes of the target, with {decodes['sessions_per_decode']:.2f} sessions and "
            f"{decodes['rows_per_decode']:.1f} rows each, took {decodes['decode_ms']:.2f} ms, "
            f"{decodes['share']:.1%} of the time."
        )
    return "\n".join([*lines, "", *sentences, ""])


def _told(ms: float) -> str:
    # A rest a little below 0 is none.
    return f"{round(ms, 2) + 0.0:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the spans of a file say; return the exit code."""
    parser = Parser(prog=PROGRAM, description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("file", type=Path, help="OTLP JSON, as `outrider bench --anatomy` keeps it, or a collector")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the table")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw it there, as SVG or PNG")
    parser.add_argument("--plot-from", type=float, metavar="S", help="seconds that the plot leaves out")
    parser.add_argument("--plot-seconds", type=float, metavar="S", help="seconds that the plot shows; some cycles")
    options = parser.parse_args(arguments)
    try:
        cycles = cycles_of(read_spans(options.file))
        found = anatomy(cycles)
        chances = reliability(cycles)
        if options.json:
            print(json.dumps(found | {"reliability": chances}))
        else:
            print("\n".join([table(found), *([reliability_table(chances)] if chances else [])]))
        if options.plot:
            draw_timeline(cycles, options.plot, from_s=options.plot_from, shown_s=options.plot_seconds)
    except (OSError, SpanFileError, NoCyclesError, PlotError) as error:
        say(PROGRAM, str(error))
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
