"""What company.py tells of its measurements: tables in Markdown, and a picture of who was in which decode."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.bench.results.comparison import Runs, best_case, rates, ratio
from orchestrator.bench.tables import Table

_PLAIN = ("plain", "alone")
# Systems that every other one is compared with: the best of those whose names begin so.
_YARDSTICKS = ("floor", "llama-server")
_MEASURED = (
    *("streams", "draft tokens", "system", "runs", "tokens/s (least to most)"),
    *("ms between chunks P50, P95", "ms a token P50, P95", "tokens a chunk"),
)
_MET = (
    *("streams", "draft tokens", "system", "tokens/s", "sessions a decode", "rows a decode", "ms a decode"),
    *("time in decodes", "decodes by sessions"),
)


def tables(results: dict[str, Any], this: str, other: str) -> str:
    """Return the tables: all cases, the best of each system, and who met, where that was recorded."""
    runs = results["runs"]
    parts = [_cases(runs, this, other), _best(runs, this)]
    if results["recorded"]:
        parts.append(_meetings(results["recorded"]))
    return "\n".join(parts)


def _cases(runs: Runs, this: str, other: str) -> str:
    systems = {run["system"] for run in runs}
    yardsticks = [prefix for prefix in _YARDSTICKS if any(system.startswith(prefix) for system in systems)]
    compared = [f"/ {other}"] if other in systems else []
    rows = []
    for cell in _ordered(runs):
        num_streams, setting, system = _case_of(cell[0])
        rates_seen = [run["tokens_per_s"] for run in cell]
        references = [(other, setting) if system == this else None] if compared else []
        references += [best_case(runs, prefix, num_streams) for prefix in yardsticks]
        row = [
            *(num_streams, setting, system, len(cell)),
            f"{statistics.median(rates_seen):.1f} ({min(rates_seen):.1f} to {max(rates_seen):.1f})",
            _percentiles(cell, "chunk_ms"),
            _percentiles(cell, "token_ms"),
            f"{statistics.median(run['tokens_per_chunk'] for run in cell):.2f}",
            *(_told(ratio(runs, (system, setting), reference, num_streams)) for reference in references),
        ]
        rows.append(row)
    return _table([*_MEASURED, *compared, *(f"/ {prefix}'s best" for prefix in yardsticks)], rows)


def _best(runs: Runs, this: str) -> str:
    systems = list(dict.fromkeys(run["system"] for run in runs))
    others = [system for system in systems if system != this] if this in systems else []
    rows = []
    for num_streams in sorted({run["num_streams"] for run in runs}):
        best = {
            system: best_case([run for run in runs if run["system"] == system], system, num_streams)
            for system in systems
        }
        told = [f"{_median(rates(runs, case, num_streams)):.1f} ({case[1]})" if case else "" for case in best.values()]
        ours = best.get(this)
        ratios = [_told(ratio(runs, ours, best[system], num_streams) if ours else None) for system in others]
        rows.append([num_streams, *told, *ratios])
    names = [*(f"{system}: best tokens/s" for system in systems), *(f"{this} / {system}" for system in others)]
    return _table(["streams", *names], rows)


def _meetings(runs: Runs) -> str:
    rows = []
    for cell in _ordered(runs):
        for run in cell:
            met = run["meeting"]
            counts = ", ".join(f"{times} of {num}" for num, times in met["decodes_by_num_sessions"].items())
            figures = (f"{met[name]:.1f}" for name in ("sessions_per_decode", "rows_per_decode", "decode_ms"))
            tokens_per_s = f"{run['tokens_per_s']:.1f}"
            rows.append([*_case_of(run), tokens_per_s, *figures, f"{met['decoding_share']:.0%}", counts])
    return _table(_MET, rows)


def _case_of(run: dict[str, Any]) -> tuple[int, str, str]:
    return run["num_streams"], run["setting"], run["system"]


def _ordered(runs: Runs) -> list[list[dict[str, Any]]]:
    """Return the runs of each case together: by streams, plain ones first, systems as they were measured."""
    cases: dict[tuple[int, str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        cases[_case_of(run)].append(run)
    systems = list(dict.fromkeys(system for _, _, system in cases))

    def place(case: tuple[int, str, str]) -> tuple[int, int, int]:
        num_streams, setting, system = case
        drafted = int(setting) if setting.isdecimal() else 0
        number = _PLAIN.index(setting) - len(_PLAIN) if setting in _PLAIN else drafted
        return num_streams, number, systems.index(system)

    return [cases[case] for case in sorted(cases, key=place)]


def _percentiles(cell: Runs, name: str) -> str:
    return ", ".join(f"{statistics.median(run[f'{name}_p{percent}'] for run in cell):.0f}" for percent in (50, 95))


def _median(values: dict[int, float]) -> float:
    return statistics.median(values.values()) if values else 0.0


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def plot(recorded: Runs, num_streams: int, setting: str, shown_s: float, path: Path) -> None:
    """Draw who was in which decode, a picture for each system, one above the other.

    Raises SystemExit without matplotlib.
    """
    try:
        from matplotlib import pyplot  # noqa: PLC0415  # only who wants a picture needs it
    except ImportError as error:
        raise SystemExit("no picture without matplotlib: pip install 'outrider[train]'") from error
    runs = [run for run in recorded if (run["num_streams"], run["setting"]) == (num_streams, setting)]
    figure, axes = pyplot.subplots(
        len(runs), 1, sharex=True, squeeze=False, figsize=(10, 0.8 + (0.8 + 0.22 * num_streams) * len(runs))
    )
    for axis, run in zip(axes[:, 0], runs, strict=True):
        _draw(axis, run, shown_s)
    axes[-1, 0].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _draw(axis: Any, run: dict[str, Any], shown_s: float) -> None:
    start_s = run["window"][0]
    heights = {"target": 0.8, "draft": 0.3}
    colours = {"target": "tab:blue", "draft": "tab:orange"}
    names = sorted({name for decode in run["decodes"]["target"] for name, _ in decode[2]})
    places = {name: index for index, name in enumerate(names)}
    for kind, decodes in run["decodes"].items():
        for began_s, ended_s, sessions, _ in decodes:
            if began_s - start_s < shown_s:
                # Sessions have other names in the draft service: its decodes share a line.
                rows = [places[name] for name, _ in sessions] if kind == "target" else [len(names)]
                axis.barh(rows, ended_s - began_s, heights[kind], began_s - start_s, color=colours[kind], linewidth=0)
    met = run["meeting"]
    axis.set_title(
        f"{run['system']}: {run['tokens_per_s']:.0f} tokens/s, "
        f"{met['sessions_per_decode']:.1f} of {run['num_streams']} sessions a decode",
        fontsize=10,
    )
    axis.set_xlim(0, shown_s)
    labels = [*(str(index + 1) for index in range(len(names))), "drafts"]
    axis.set_yticks(range(len(labels)), labels, fontsize=7)
    axis.set_ylabel("session")
    axis.legend(
        handles=[axis.barh([0], [0], color=colours[kind], label=f"decode of the {kind}") for kind in colours],
        loc="upper right",
        fontsize=7,
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return Table(header, [list(map(str, row)) for row in rows]).markdown()
