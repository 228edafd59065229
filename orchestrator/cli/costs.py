"""`outrider costs`: what decodes of a pair take on this machine, as a file."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from orchestrator.cli.interrupts import run
from orchestrator.cli.model_files import find_pair
from orchestrator.cli.options import DraftOption, TargetOption, refuse_empty
from orchestrator.cli.progress import waiting
from orchestrator.costs import Costs, ModelCosts, Point, load_costs, save_costs
from orchestrator.costs.measurements import Measurements
from orchestrator.stack.process import CrashedError, RefusedError
from services.frame.program.output import say
from services.frame.program.startup import CODE_REFUSED, StartupError

_MODULE = "services.engine.costs"
# A line is what all decodes are that will be measured.
_LONGEST_LINE_BYTES = 1 << 24
# Writing a file takes longer than a small model's decodes.
_SAVE_EVERY_S = 1.0
# Cores; with less beside them times are as good as on an idle machine.
_MOST_BUSY_ELSEWHERE = 0.2


def costs(
    out: Annotated[str, typer.Option(callback=refuse_empty, help="file to write, as JSON; one of costs is replaced")],
    target: TargetOption = None,
    draft: DraftOption = None,
    budget: Annotated[
        float, typer.Option(min=1, max=86400, help="seconds that it may take; the file names what was not measured")
    ] = 90.0,
    slots: Annotated[int, typer.Option(min=1, max=256, help="most sessions in a decode")] = 8,
    context: Annotated[
        int, typer.Option(min=64, max=1 << 20, help="tokens of the longest context, where the model knows so many")
    ] = 8192,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="threads of a decode; 0 takes all cores")] = 0,
    gpu_layers: Annotated[
        int, typer.Option(min=-1, max=1 << 16, help="layers on the GPU; -1 as many as fit, 0 none")
    ] = -1,
    machine: Annotated[str, typer.Option(help="the machine in words; as it says of itself if absent")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print the costs as one line of JSON")] = False,
) -> None:
    """Measure what decodes take, by rows, sessions and context, with flash attention and without, for `simulate`.

    What has been measured is in the file at any time.
    """
    path = _writable(Path(out))
    target_path, draft_path = find_pair(target, draft, wants_draft=True)
    flags = ["--target", str(target_path), *(["--draft", str(draft_path)] if draft_path else [])]
    settings = {"slots": slots, "context": context, "threads": threads, "gpu_layers": gpu_layers, "budget": budget}
    flags += [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    found = run(_measure(path, flags, machine, {"budget_s": budget, "slots": slots}))
    if as_json:
        print(json.dumps(json.loads(path.read_bytes())))
    else:
        _show(found)
    if any(model is not None and model.left_out for model in (found.target, found.draft)):
        say("outrider", f"{out} names what was left out, for want of time or memory: --budget is {budget:g} s")


def _writable(path: Path) -> Path:
    """Return where to write. Raises StartupError where that cannot be, or where something else would be lost."""
    if not path.parent.is_dir():
        raise StartupError(f"there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise StartupError(f"cannot write into {path.parent}")
    if path.exists():
        load_costs(path)
    return path


async def _measure(path: Path, flags: Sequence[str], machine: str, settings: dict[str, float | int]) -> Costs:
    """Measure and keep `path` up to date. Raises RefusedError and CrashedError."""
    measurements: Measurements | None = None
    kept: Costs | None = None

    async def describe() -> str:
        if measurements is None:
            return "the models"
        tenths = 10 * measurements.num_measured // measurements.num_planned
        return f"the times of {measurements.num_planned} decodes, {10 * tenths} % of them measured"

    try:
        async with waiting(describe), aclosing(_lines(flags)) as lines:
            saved_s = time.monotonic()
            async for line in lines:
                if measurements is None:
                    measurements = Measurements(line, machine, settings)
                    continue
                measurements.add(line)
                if time.monotonic() - saved_s >= _SAVE_EVERY_S:
                    kept = _save(path, measurements)
                    saved_s = time.monotonic()
    finally:
        if measurements is not None:
            kept = _save(path, measurements)
            say("outrider", f"{path} has {measurements.num_measured} of {measurements.num_planned} decodes")
            if (cores := measurements.busy_elsewhere) > _MOST_BUSY_ELSEWHERE:
                say("outrider", f"other programs kept {cores:.1f} cores busy: idle, this machine is quicker")
    if kept is None:
        raise StartupError("there was no time to measure anything: raise --budget")
    return kept


def _save(path: Path, measurements: Measurements) -> Costs | None:
    found = measurements.costs()
    if found is not None:
        try:
            save_costs(path, found)
        except OSError as error:
            raise StartupError(f"cannot write {path}: {error.strerror}") from error
    return found


async def _lines(flags: Sequence[str]) -> AsyncGenerator[dict[str, Any], None]:
    """Yield what the measuring process says; it goes on when the next line is asked for.

    Raises RefusedError where it has said why it does not measure, and CrashedError.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", _MODULE, *flags),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE_BYTES,
        # Ctrl-C in a terminal is for this process.
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        async for line in process.stdout:
            yield json.loads(line)
            process.stdin.write(b"\n")
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code == CODE_REFUSED:
        raise RefusedError("nothing was measured")
    if code:
        raise CrashedError(f"the process that measures ended with code {code}")


def _show(found: Costs) -> None:
    """Print the decodes with the shortest context, in milliseconds."""
    out = Console(highlight=False)
    out.print(f"on {found.machine}", markup=False)
    for role, model in (("target", found.target), ("draft", found.draft)):
        if model is not None:
            out.print(_table(role, model))


def _table(role: str, model: ModelCosts) -> Table:
    points = [point for point in model.points if point.flash_attention is model.uses_flash_attention]
    context = min(point.context for point in points)
    shown = {(p.num_sessions, p.num_rows // p.num_sessions): p for p in points if p.context == context}
    all_sessions, all_rows = (sorted({place[index] for place in shown}) for index in (0, 1))
    attention = "with" if model.uses_flash_attention else "without"
    title = (
        f"{role}: ms a decode at context {context}, {attention} flash attention, and what half of the times lie within"
    )
    table = Table("rows of each session", *(f"{n} session{'s' * (n > 1)}" for n in all_sessions), title=title)
    for rows in all_rows:
        table.add_row(str(rows), *(_cell(shown.get((sessions, rows))) for sessions in all_sessions))
    return table


def _cell(point: Point | None) -> str:
    if point is None:
        return ""
    return f"{point.ms:.2f}" + (f" ±{point.spread_ms / 2:.2f}" if point.spread_ms is not None else "")
