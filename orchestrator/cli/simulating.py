"""What `outrider simulate` does: scenarios from the table, from a file of costs or from traces, simulated and shown."""

import json
import logging
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from orchestrator.bench.spans import SpanFileError, read_spans
from orchestrator.costs import Costs, load_costs
from orchestrator.simulation import ideal
from orchestrator.simulation.real import Parts, run_real
from orchestrator.simulation.report import (
    assumed_line,
    costs_lines,
    in_a_sentence,
    parts_table,
    rows_table,
    seen_lines,
    streams_lines,
)
from orchestrator.simulation.scenario import Scenario, own_scenario, scenarios
from orchestrator.simulation.table import Row, row_of
from orchestrator.simulation.traces import NothingSeenError, Seen, look_at
from orchestrator.simulation.what import changed, draft_tokens_of, read_what
from services.frame.program.startup import StartupError

# A scenario, a policy, the number of draft tokens if it is given, and the seed.
_Task = tuple[Scenario, str, int | None, int]


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    numbers: Sequence[int]
    policies: Sequence[str]
    num_draft_tokens: int | None
    costs: str | None
    traces: str | None
    what: str
    seed: int
    is_real: bool
    is_json: bool


def simulate(asked: Asked) -> None:
    """Do what is asked for. Raises StartupError for what cannot be done, before anything is."""
    if bool(asked.numbers) + bool(asked.costs) + bool(asked.traces) > 1:
        raise StartupError("--scenario, --costs and --from each say what is simulated: give one of them")
    if asked.is_real and asked.traces:
        raise StartupError("--from has its times from traces: leave out --real")
    changes = read_what(asked.what)
    number = asked.num_draft_tokens or draft_tokens_of(changes)
    if asked.traces:
        seen = _seen(Path(asked.traces))
        _simulate_seen(asked, seen, changed(seen.scenario, changes), changes, number)
        return
    chosen = [own_scenario(load_costs(Path(asked.costs)))] if asked.costs else _of_table(asked.numbers)
    chosen = [changed(scenario, changes) for scenario in chosen]
    if asked.is_real:
        _run_real(asked, chosen, number)
        return
    policies = _policies(asked)
    tasks = [(scenario, policy, number, asked.seed) for scenario in chosen for policy in policies]
    rows = _simulated(tasks)
    if asked.is_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    out = Console(highlight=False)
    if len(chosen) == 1:
        out.print(in_a_sentence(rows, is_best_tried="fixed" in policies and number is None))
        for line in (assumed_line(chosen[0]), *streams_lines(chosen[0])):
            out.print(line)
    for line in costs_lines(_files_of_costs(asked, changes)):
        out.print(line)
    out.print(rows_table(rows, [scenario.title for scenario, *_ in tasks]))


def _files_of_costs(asked: Asked, changes: Mapping[str, str]) -> dict[str, Costs]:
    """Return the files of costs that are named, by their names."""
    names = [asked.costs, changes.get("target"), changes.get("draft")]
    return {name: load_costs(Path(name)) for name in names if name and Path(name).is_file()}


def _policies(asked: Asked) -> Sequence[str]:
    """Return the policies that are simulated: plain decoding too where the others are shown beside it."""
    return asked.policies if asked.is_json or "plain" in asked.policies else ["plain", *asked.policies]


def _of_table(numbers: Sequence[int]) -> list[Scenario]:
    return [scenario for scenario in scenarios() if not numbers or scenario.number in numbers]


def _simulated(tasks: Sequence[_Task]) -> list[Row]:
    """Simulate on all cores; one task gives one row."""
    console = Console(stderr=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(len(tasks), len(os.sched_getaffinity(0))), _begin_process) as pool:
        rows = pool.imap(_row, tasks)
        return list(
            track(rows, "simulating", len(tasks), console=console, transient=True, disable=not console.is_terminal)
        )


def _begin_process() -> None:
    # Ctrl-C is for the process that asks, which ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Drafts that are lost are part of a scenario.
    logging.disable(logging.WARNING)


def _row(task: _Task) -> Row:
    return row_of(*task)


def _run_real(asked: Asked, chosen: Sequence[Scenario], number: int | None) -> None:
    parts: list[Parts] = []
    for scenario in chosen:
        # One stream, so that company is no part of it.
        alone = replace(scenario, round_trips_ms=scenario.round_trips_ms[:1])
        best = ideal.without_overlap(alone).num_draft_tokens[0]
        parts.append(run_real(alone, best if number is None else number, asked.seed))
    if asked.is_json:
        print(json.dumps([asdict(each) for each in parts]))
    else:
        Console(highlight=False).print(parts_table(parts, [scenario.title for scenario in chosen]))


def _seen(path: Path) -> Seen:
    try:
        return look_at(read_spans(path))
    except OSError as error:
        raise StartupError(f"cannot read traces {path}: {error.strerror}") from error
    except SpanFileError as error:
        raise StartupError(str(error)) from error
    except NothingSeenError as error:
        raise StartupError(f"{path}: {error}") from error


def _simulate_seen(asked: Asked, seen: Seen, other: Scenario, changes: Mapping[str, str], number: int | None) -> None:
    """Simulate what was seen, then what would be if something changed."""
    unknown = [name for name in ("acceptance", "draft") if name not in changes]
    if changes and unknown and not seen.num_draft_tokens and asked.policies != ["plain"]:
        raise StartupError(
            f"{asked.traces}: no drafts were seen: say {' and '.join(unknown)} with --what too, or take --policy plain"
        )
    fixed = "fixed" if seen.num_draft_tokens else "plain"
    tasks: list[_Task] = [(seen.scenario, fixed, seen.num_draft_tokens, asked.seed)]
    if fixed != "plain" and not asked.is_json:
        tasks.append((seen.scenario, "plain", None, asked.seed))
    if changes:
        changed_number = number or seen.num_draft_tokens or None
        tasks += [(replace(other, name=asked.what), policy, changed_number, asked.seed) for policy in _policies(asked)]
    rows = _simulated(tasks)
    if asked.is_json:
        told: list[dict[str, Any]] = [asdict(row) for row in rows]
        for each in told[1:]:
            each["variant"] = asked.what
        told[0] |= {"variant": "as seen", "seen": seen.tokens_per_s, "error": rows[0].achieved / seen.tokens_per_s - 1}
        print(json.dumps(told))
        return
    out = Console(highlight=False)
    warnings = *streams_lines(other), *costs_lines(_files_of_costs(asked, changes))
    for line in (*seen_lines(seen, rows[0]), *warnings):
        out.print(line)
    out.print(rows_table(rows, [scenario.title for scenario, *_ in tasks]))
