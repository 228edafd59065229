"""What a bench found out: one sentence, the tables under it, in Markdown too, and the same as JSON values."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.bench.anatomy import table as anatomy_table
from orchestrator.bench.reliability import in_words, reliability_table
from orchestrator.bench.results.checks import TOLERANCE, verdict
from orchestrator.bench.results.comparison import (
    PLAIN_NAMES,
    Runs,
    Verdict,
    compare,
    draft_verdicts,
    noise,
    system_verdicts,
    without_draft,
)
from orchestrator.bench.results.sentence import answer
from orchestrator.bench.systems.system import AGAIN, AUTO, PLAIN
from orchestrator.bench.tables import Table

# Figures of a run whose medians are told, each where runs have it.
_FIGURES = (
    *("tokens_per_s", "passes_per_token", "wire_ms_per_cycle", "tokens_per_chunk", "num_resyncs", "num_fallbacks"),
    *(f"{name}_p{percent}" for name in ("first_token_ms", "token_ms", "chunk_ms") for percent in (50, 95, 99)),
)
_MOST_POSITIONS = 8
# What a ratio is told with, where it is no difference for certain.
_NOTED = {"same": " (noise)", "unknown": " (noise not known)", "undrafted": " (draft not used)"}


def summarize(results: dict[str, Any], system: str) -> dict[str, Any]:
    """Return what runs, given as JSON values, come to; `system` is ours, with which all others are compared."""
    runs: Runs = results["runs"]
    drafts = draft_verdicts(runs, system)
    return {
        "answer": answer(drafts),
        "drafts": [_told(each) for each in drafts],
        "systems": [_told(each) for each in system_verdicts(runs, system)],
        "noise": {str(num): noise(runs, system, num) for num in _streams(runs)},
        "cases": [_medians(cell, runs, system) for cell in cells(runs)],
        "memory": memory(runs),
        "checks": checks(results),
        "anatomies": results.get("anatomies", []),
        "reliability": results.get("reliability", {}),
    }


def _told(each: Verdict) -> dict[str, Any]:
    return asdict(each) | {"kind": each.kind}


def checks(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return whether the client's rates agree with those that servers tell: of each system that does, and of spans."""
    found = []
    for system in dict.fromkeys(run["system"] for run in results["runs"]):
        if agreements := [each for run in results["runs"] if run["system"] == system for each in run["agreements"]]:
            found.append(verdict(f"decode rate of {system} / its own timings", agreements))
    if from_spans := results.get("span_agreements"):
        found.append(verdict("decode rate / that of the spans", from_spans))
    return found


def markdown(results: dict[str, Any], system: str) -> str:
    """Return all of it in Markdown: the sentence, the tables under it, where the time went, how far chances hold."""
    summary = summarize(results, system)
    parts = [part.markdown() if isinstance(part, Table) else f"{part}\n" for part in short(results, summary)]
    if summary["anatomies"]:
        parts.append(_anatomies(summary["anatomies"]))
    if summary["reliability"]:
        parts.append(
            f"Chances of draft tokens, as predicted and as seen:\n\n{reliability_table(summary['reliability'])}"
        )
    return "\n".join(parts)


def short(results: dict[str, Any], summary: dict[str, Any]) -> list[str | Table]:
    """Return the sentence and the tables under it, with notes, for somebody who waits for the answer."""
    systems, used = summary["systems"], summary["memory"]
    return [
        summary["answer"],
        _cases(summary["cases"]),
        *([_systems(systems)] if systems else []),
        *([_memory(used)] if used else []),
        "\n".join(f"- {note}" for note in _notes(results, summary)),
    ]


def cells(runs: Runs) -> list[list[dict[str, Any]]]:
    """Return the runs of each case together: by streams, then systems as they were measured, plain ones first."""
    systems = list(dict.fromkeys(run["system"] for run in runs))
    found: dict[tuple[int, int, tuple[int, int, str]], list[dict[str, Any]]] = {}
    for run in runs:
        place = (run["num_streams"], systems.index(run["system"]), _place(run["setting"]))
        found.setdefault(place, []).append(run)
    return [found[place] for place in sorted(found)]


def _place(setting: str) -> tuple[int, int, str]:
    if setting in PLAIN_NAMES:
        return 0, PLAIN_NAMES.index(setting), ""
    number = setting.partition("/")[0]
    return (2, int(number), setting) if number.isdecimal() else (1, 0, setting)


def _medians(cell: Runs, runs: Runs, system: str) -> dict[str, Any]:
    """Return the figures of one case; the noise is that of our system."""
    first = cell[0]
    case, num_streams = (first["system"], first["setting"]), first["num_streams"]
    rates = [run["tokens_per_s"] for run in cell]
    told = {name: _median(cell, name) for name in _FIGURES if any(name in run for run in cell)}
    positions = [run["accepted_per_position"] for run in cell if run.get("accepted_per_position")]
    level = noise(runs, system, num_streams)
    beside = compare(runs, case, (case[0], PLAIN), num_streams, noise=level, is_fresh=True)
    busy = [run["gpu"]["busy_percent"] for run in cell if run.get("gpu")]
    return {
        **{"system": case[0], "setting": case[1], "num_streams": num_streams, "num_runs": len(cell)},
        **told,
        **{"least_tokens_per_s": min(rates), "most_tokens_per_s": max(rates)},
        "accepted_per_position": [
            statistics.mean(each[index] for each in positions if index < len(each))
            for index in range(max(map(len, positions), default=0))
        ],
        "accepted_by_kind": next((run["accepted_by_kind"] for run in cell if run.get("accepted_by_kind")), {}),
        "of_plain": None if beside is None or case[1] == PLAIN else beside.ratio,
        "of_plain_kind": None if beside is None or case[1] == PLAIN else beside.kind,
        "gpu_busy_percent": statistics.median(busy) if busy else None,
        "is_steady": all(run["is_steady"] for run in cell),
        "without_draft": without_draft(runs, case, num_streams),
    }


def memory(runs: Runs) -> list[dict[str, Any]]:
    """Return the most memory that each process of a system had, and the draft's in percent of the target's."""
    found = []
    for system in dict.fromkeys(run["system"] for run in runs):
        most: dict[str, int] = {}
        for run in runs:
            if run["system"] == system:
                for name, num_bytes in run["memory_bytes"].items():
                    most[name] = max(most.get(name, 0), num_bytes)
        if most:
            share = 100 * most["draft"] / most["target"] if "draft" in most else None
            found.append({"system": system, "memory_bytes": most, "draft_percent": share})
    return found


def _cases(rows: Sequence[dict[str, Any]]) -> Table:
    first_token, token = "first token, ms P50, P95", "ms a token P50, P95, P99"
    accepted, passes, wire = "accepted by position", "passes a token", "wire ms a cycle"
    header = ["streams", "system", "setting", "tokens/s (least to most)", "of plain"]
    header += [first_token, token, accepted, passes, wire, "runs"]
    is_alone = len({row["system"] for row in rows}) == 1
    dispensable = [*(["system"] if is_alone else []), passes, wire, accepted, first_token, "runs", token]
    if has_gpu := any(row["gpu_busy_percent"] is not None for row in rows):
        header.append("GPU busy")
        dispensable.insert(0, "GPU busy")
    lines = [
        [
            *(str(row["num_streams"]), row["system"], row["setting"]),
            f"{row['tokens_per_s']:.1f} ({row['least_tokens_per_s']:.1f} to {row['most_tokens_per_s']:.1f})",
            _of_plain(row),
            _joined(row, "first_token_ms", (50, 95)),
            _joined(row, "token_ms", (50, 95, 99)),
            " ".join(f"{each:.2f}" for each in row["accepted_per_position"][:_MOST_POSITIONS]),
            _number(row.get("passes_per_token"), 2),
            _number(row.get("wire_ms_per_cycle"), 2),
            str(row["num_runs"]),
            *([_number(row["gpu_busy_percent"], 0) + " %"] if has_gpu else []),
        ]
        for row in rows
    ]
    return Table(header, lines, dispensable)


def _of_plain(row: dict[str, Any]) -> str:
    if row["of_plain"] is None:
        return ""
    return f"{row['of_plain']:.2f}" + _NOTED.get(row["of_plain_kind"], "")


def _systems(verdicts: Sequence[dict[str, Any]]) -> Table:
    rows = [
        [
            str(each["num_streams"]),
            *(f"{name} ({setting}): {each[rate]:.1f}" for (name, setting), rate in _sides(each)),
            f"{each['ratio']:.2f}" + _NOTED.get(each["kind"], ""),
            str(each["num_rounds"]),
        ]
        for each in verdicts
    ]
    return Table(["streams", "best tokens/s", "against", "ratio", "rounds"], rows, ["rounds"])


def _sides(each: dict[str, Any]) -> list[tuple[Sequence[str], str]]:
    return [(each["case"], "rate"), (each["reference"], "reference_rate")]


def _memory(rows: Sequence[dict[str, Any]]) -> Table:
    lines = [
        [
            row["system"],
            ", ".join(f"{name} {num_bytes / 2**20:.0f}" for name, num_bytes in row["memory_bytes"].items()),
            "" if row["draft_percent"] is None else f"{row['draft_percent']:.0f} %",
        ]
        for row in rows
    ]
    return Table(["system", "memory, MiB", "draft / target"], lines)


def _notes(results: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    levels = [
        f"{value:.1%} with {_streams_in_words(int(num))}"
        for num, value in summary["noise"].items()
        if value is not None
    ]
    notes = [f"Equal runs ({PLAIN} and {AGAIN}) lay up to {', '.join(levels)} apart."] if levels else []
    fresh = [each for each in summary["drafts"] if not each["is_fresh"]]
    if len(fresh) < len(summary["drafts"]):
        notes.append(
            "The sentence, and what is beside other systems, counts the later rounds only, which did not choose the "
            "best setting; a case's own row counts all rounds."
        )
    if fresh:
        notes.append("The best setting was chosen by the same rounds that it is compared in, for want of time.")
    if any(not row["is_steady"] for row in summary["cases"]) and not results["about"].get("rate"):
        notes.append("Some streams ended before all ran: there the whole time counts, prompts included.")
    for row in summary["cases"]:
        if row["without_draft"]:
            num, num_cycles = row["without_draft"]
            notes.append(
                f"{row['system']}, {row['setting']}, {_streams_in_words(row['num_streams'])}: the "
                f"draft was not used in {num} of {num_cycles} cycles."
            )
    for each in summary["checks"]:
        within = "within" if each["is_met"] else "NOT within"
        notes.append(
            f"{each['check']}: {each['median_ratio']:.3f} (least {each['least_ratio']:.3f}, most "
            f"{each['most_ratio']:.3f}, {_streams_in_words(each['num_streams'])}), {within} {TOLERANCE:.0%}."
        )
    if chances := summary["reliability"]:
        notes.append(
            f"Chances of draft tokens with {AUTO}, predicted against seen: expected calibration error "
            f"{in_words(chances)} over {chances['num_tried']} tokens."
        )
    notes += [f"Failed: {', '.join(str(value) for value in each.values())}." for each in results["failures"]]
    return notes


def _streams(runs: Runs) -> list[int]:
    return sorted({run["num_streams"] for run in runs})


def _streams_in_words(num_streams: int) -> str:
    return "1 stream" if num_streams == 1 else f"{num_streams} streams"


def _median(cell: Runs, name: str) -> float:
    return float(statistics.median(run[name] for run in cell if name in run))


def _joined(row: dict[str, Any], name: str, percents: Sequence[int]) -> str:
    return ", ".join(_number(row.get(f"{name}_p{percent}"), 1) for percent in percents)


def _number(value: float | None, num_digits: int) -> str:
    return "" if value is None else f"{value:.{num_digits}f}"


def _anatomies(anatomies: Sequence[dict[str, Any]]) -> str:
    """Return where the time went, a table for each run, in Markdown."""
    parts = []
    for each in anatomies:
        streams = _streams_in_words(each["num_streams"])
        parts.append(f"Where the time went, {streams}, {each['setting']}:\n\n{anatomy_table(each)}")
    return "\n".join(parts)
