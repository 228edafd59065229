"""Cycles drawn over time: a row for each session, with its drafts, its waits and its decodes, coloured by decode."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from orchestrator.bench.cycles import Cycle
from services.frame.program.atomic_file import replacing

_DRAFT, _WAIT = "tab:orange", "lightgrey"
# Decodes that follow each other have colours that nobody mistakes for each other, nor for the two above.
_DECODES = ("tab:blue", "tab:green", "tab:purple", "tab:red", "tab:cyan", "tab:brown", "tab:olive", "tab:pink")
_THIN, _THICK = 0.3, 0.8
_SHOWN_CYCLES = 10


class PlotError(Exception):
    """Nothing can be drawn. The message is a sentence that says what to change."""


class Box(NamedTuple):
    """A piece of time of one row, in seconds since the first cycle began. `decode` is the decode's index, or None."""

    row: int
    kind: str
    started_s: float
    ended_s: float
    decode: int | None = None


@dataclass(frozen=True)
class Timeline:
    """What is to be drawn, of `num_rows` rows."""

    boxes: Sequence[Box]
    num_rows: int


def timeline(cycles: Sequence[Cycle]) -> Timeline:
    """Return the boxes of cycles, in the order in which they began. Requests that follow each other share a row."""
    rows = _rows(cycles)
    began_ns = cycles[0].started_ns if cycles else 0
    boxes = []
    for cycle in cycles:
        row = rows[cycle.session]
        pieces: list[tuple[str, int, int, int | None]] = []
        if cycle.draft:
            pieces.append(("draft", cycle.draft.started_ns, cycle.draft.ended_ns, None))
        if cycle.target and (decode := cycle.target.decode):
            pieces.append(("wait", cycle.target.started_ns, decode.started_ns, None))
            pieces.append(("decode", decode.started_ns, decode.ended_ns, decode.index))
        boxes += [
            Box(row, kind, (start_ns - began_ns) / 1e9, (end_ns - began_ns) / 1e9, index)
            for kind, start_ns, end_ns, index in pieces
        ]
    return Timeline(boxes, max(rows.values(), default=-1) + 1)


def _rows(cycles: Sequence[Cycle]) -> dict[str, int]:
    """Return the row of each session: the first one that is free when it begins."""
    ends: dict[str, int] = {}
    for cycle in cycles:
        ends[cycle.session] = cycle.ended_ns
    rows: dict[str, int] = {}
    taken_until: list[int] = []
    for cycle in cycles:
        if cycle.session not in rows:
            row = next((row for row, end in enumerate(taken_until) if end <= cycle.started_ns), len(taken_until))
            taken_until[row : row + 1] = [ends[cycle.session]]
            rows[cycle.session] = row
    return rows


def usual_view(cycles: Sequence[Cycle]) -> tuple[float, float]:
    """Return from when, in seconds since the first cycle began, and for how long it is worth looking.

    That is for some cycles, from when every session that begins beside the first one has read its prompt.
    """
    if not cycles:
        return 0.0, 0.0
    first = cycles[0]
    ended_ns = max(cycle.ended_ns for cycle in cycles if cycle.session == first.session)
    begun_ns = [cycle.ended_ns for cycle in cycles if not cycle.index and cycle.started_ns < ended_ns]
    usual_ms = median(cycle.duration_ms for cycle in cycles)
    return (max(begun_ns, default=first.started_ns) - first.started_ns) / 1e9, _SHOWN_CYCLES * usual_ms / 1e3


def draw_timeline(
    cycles: Sequence[Cycle], path: Path, *, from_s: float | None = None, shown_s: float | None = None
) -> None:
    """Draw `shown_s` seconds of cycles, from `from_s` after the first one's beginning, as an SVG or a PNG.

    Where they are absent, it shows what `usual_view` says. Raises PlotError for another kind of file, without
    matplotlib, or where nothing happened in that time; and OSError.
    """
    try:
        # It is not needed for the figures, and takes its time to come.
        import matplotlib  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise PlotError("matplotlib draws the plot: pip install 'outrider[bench]'") from error
    if path.suffix not in (".svg", ".png"):
        raise PlotError(f"{path}: a plot is an .svg or a .png")
    usual_from_s, usual_shown_s = usual_view(cycles)
    from_s = usual_from_s if from_s is None else from_s
    shown_s = usual_shown_s if shown_s is None else shown_s
    whole = timeline(cycles)
    shown = [box for box in whole.boxes if box.ended_s > from_s and box.started_s < from_s + shown_s]
    if not shown:
        raise PlotError(f"no cycle in the {shown_s:g} s after {from_s:g} s: show another time")
    figure = Figure(figsize=(12, 1.2 + 0.3 * whole.num_rows), layout="constrained")
    axes = figure.subplots()
    for row in range(whole.num_rows):
        for kind, height in (("draft", _THIN), ("wait", _THIN), ("decode", _THICK)):
            boxes = [box for box in shown if box.row == row and box.kind == kind]
            spans = [(box.started_s, box.ended_s - box.started_s) for box in boxes]
            axes.broken_barh(spans, (row - height / 2, height), facecolors=[_colour(box) for box in boxes], linewidth=0)
    _label(axes, whole.num_rows, from_s, shown_s)
    # Salt and date left to themselves, the same cycles give another file every time.
    with replacing(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "timeline"}):
        is_svg = path.suffix == ".svg"
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata={"Date": None} if is_svg else None)


def _colour(box: Box) -> str:
    if box.decode is not None:
        return _DECODES[box.decode % len(_DECODES)]
    return _DRAFT if box.kind == "draft" else _WAIT


def _label(axes: Any, num_rows: int, from_s: float, shown_s: float) -> None:
    axes.set_xlim(from_s, from_s + shown_s)
    axes.set_ylim(num_rows - 0.4, -0.6)
    axes.set_yticks(range(num_rows), [str(row + 1) for row in range(num_rows)])
    axes.set_ylabel("session")
    axes.set_xlabel("seconds")
    told = ((_DRAFT, "draft"), (_WAIT, "wait for the target"), (_DECODES[0], "decode of the target, a colour for each"))
    handles = [axes.barh([0], [0], color=colour, label=label) for colour, label in told]
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1.15 + 0.3 / num_rows), ncols=3, frameon=False
    )
