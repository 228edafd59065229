"""The pictures of a bench: tokens per second by settings, with how far runs lay apart, and how far chances hold."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from orchestrator.bench.results.report import cells
from services.frame.program.startup import StartupError


def check_plotting() -> None:
    """Raise StartupError where no picture can be drawn."""
    if find_spec("matplotlib") is None:
        raise StartupError("--plot needs matplotlib: pip install matplotlib")


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw tokens per second of all streams together, a group of bars for each number of streams."""
    import matplotlib  # noqa: PLC0415  # only who wants a picture needs it

    matplotlib.use("svg")
    from matplotlib import pyplot  # noqa: PLC0415

    every = cells(results["runs"])
    streams = sorted({cell[0]["num_streams"] for cell in every})
    figure, axes = pyplot.subplots(1, len(streams), squeeze=False, figsize=(3.2 * len(streams) + 1, 4.2))
    for axis, num_streams in zip(axes[0], streams, strict=True):
        shown = [cell for cell in every if cell[0]["num_streams"] == num_streams]
        systems = list(dict.fromkeys(cell[0]["system"] for cell in shown))
        rates = [sorted(run["tokens_per_s"] for run in cell) for cell in shown]
        medians = [each[len(each) // 2] for each in rates]
        spread = [
            [median - each[0] for median, each in zip(medians, rates, strict=True)],
            [each[-1] - median for median, each in zip(medians, rates, strict=True)],
        ]
        colours = [f"C{systems.index(cell[0]['system'])}" for cell in shown]
        labels = [
            cell[0]["setting"] if len(systems) == 1 else f"{cell[0]['system']}\n{cell[0]['setting']}" for cell in shown
        ]
        axis.barh(range(len(shown)), medians, xerr=spread, color=colours, height=0.7)
        axis.set_yticks(range(len(shown)), labels, fontsize=7)
        axis.invert_yaxis()
        axis.set_title(f"{num_streams} stream{'s' if num_streams > 1 else ''}", fontsize=10)
        axis.set_xlabel("tokens/s, least to most")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def plot_reliability(found: dict[str, Any], path: Path) -> None:
    """Draw what `reliability` found: for each drafter the share seen over the chance predicted, counts beneath."""
    import matplotlib  # noqa: PLC0415  # only who wants a picture needs it

    matplotlib.use("svg")
    from matplotlib import pyplot  # noqa: PLC0415

    drafters = found["drafters"]
    figure, axes = pyplot.subplots(
        2,
        len(drafters),
        sharex=True,
        squeeze=False,
        figsize=(4 * len(drafters) + 0.6, 5.6),
        height_ratios=(3, 1),
        layout="constrained",
    )
    for drafter, chances, counts in zip(drafters, *axes, strict=True):
        bins = drafter["bins"]
        predicted, seen = ([each[name] for each in bins] for name in ("predicted", "seen"))
        beyond = [
            [each["seen"] - each["seen_least"] for each in bins],
            [each["seen_most"] - each["seen"] for each in bins],
        ]
        chances.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="as predicted")
        chances.errorbar(predicted, seen, beyond, fmt="o", color="C0", capsize=2, label="seen, 95 % interval")
        chances.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="share accepted")
        chances.set_title(
            f"{drafter['drafter']}: calibration error {drafter['expected_calibration_error']:.3f}, "
            f"by chance {drafter['error_by_chance']:.3f}",
            fontsize=9,
        )
        chances.legend(loc="upper left", fontsize=8, frameon=False)
        counts.bar(
            [each["least"] for each in bins],
            [each["num_tried"] for each in bins],
            [each["most"] - each["least"] for each in bins],
            align="edge",
            color="C0",
            edgecolor="white",
        )
        counts.set(xlabel="chance predicted", ylabel="tokens tried")
    figure.savefig(path)
    pyplot.close(figure)
