"""Where the figures go: metrics.json, the table of the model card, the plot."""

from __future__ import annotations

import json
from pathlib import Path

from models.evaluate.measure import GREEDY, HELD_OUT, MODES, SAMPLED, Metrics
from services.frame.program.atomic_file import replacing

BEGIN, END = "<!-- metrics:begin -->", "<!-- metrics:end -->"
_MODE_NAMES = {GREEDY: "greedy", SAMPLED: "temperature 0.8"}


def write_metrics(path: Path, metrics: Metrics) -> None:
    """Writes metrics.json."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def update_card(path: Path, metrics: Metrics) -> None:
    """Puts the table between the card's markers. Raises ValueError where it lacks them, or is no text."""
    try:
        card = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error
    begin, end = card.find(BEGIN), card.find(END)
    if begin < 0 or end < begin:
        raise ValueError(f"{path} has no lines {BEGIN} and {END} for the table to stand between")
    with replacing(path) as temporary:
        temporary.write_text(f"{card[:begin]}{BEGIN}\n{table(metrics)}{card[end:]}", encoding="utf-8")


def table(metrics: Metrics) -> str:
    """The figures as Markdown, one measure a row."""
    target, draft = metrics["target"], metrics["draft"]
    rows = [
        ("", "target", "draft"),
        ("---", "---", "---"),
        ("parameters", f"{target['num_parameters']:,}", f"{draft['num_parameters']:,}"),
        ("file", *(f"{model['num_bytes'] / 1e6:.1f} MB, {model['type']}" for model in (target, draft))),
        ("bits per byte", *(f"{model['bits_per_byte']:.3f}" for model in (target, draft))),
        ("ms per token", *(f"{model['ms_per_token']:.2f}" for model in (target, draft))),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *_acceptance_table(metrics), "", *_text_table(metrics)]
    return "\n".join(lines) + "\n"


def _acceptance_table(metrics: Metrics) -> list[str]:
    acceptance = metrics["acceptance"]
    longest = max(len(figures["per_position"]) for figures in acceptance[GREEDY].values())
    titles = [
        "mode",
        "draft tokens",
        *(str(position + 1) for position in range(longest)),
        "mean of 1 to 4",
        "mean accepted length",
    ]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    for mode in MODES:
        for figures in acceptance[mode].values():
            shares = [f"{share:.3f}" for share in figures["per_position"]]
            cells = [_MODE_NAMES[mode], str(len(shares)), *shares, *[""] * (longest - len(shares))]
            cells += [f"{figures['mean_of_first_4']:.3f}", f"{figures['mean_accepted_length']:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _text_table(metrics: Metrics) -> list[str]:
    parsed, repeated = metrics["parse_rate"], metrics["repeated_8_grams"]
    return [
        "| text | held-out code | greedy | temperature 0.8 |",
        "| --- | --- | --- | --- |",
        f"| functions that parse | {parsed[HELD_OUT]:.2f} | {parsed[GREEDY]:.2f} | {parsed[SAMPLED]:.2f} |",
        f"| repeated 8-grams | {repeated[HELD_OUT]:.4f} | | {repeated[SAMPLED]:.4f} |",
    ]


def draw_plot(path: Path, metrics: Metrics) -> None:
    """Draws acceptance by position as SVG. Raises ModuleNotFoundError without matplotlib."""
    # Drawing is the only thing here that needs more than the engine.
    import matplotlib  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for mode in MODES:
        figures = max(metrics["acceptance"][mode].values(), key=lambda one: len(one["per_position"]))
        shares = figures["per_position"]
        axes.plot(range(1, len(shares) + 1), shares, marker="o", label=_MODE_NAMES[mode])
    axes.set_xlabel("position in the draft")
    axes.set_ylabel("accepted, given the ones before")
    axes.set_ylim(0.0, 1.0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    # Salt and date left to themselves, the same figures give another file every time.
    with replacing(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "acceptance"}):
        figure.savefig(temporary, format="svg", metadata={"Date": None})
