"""The command line of the evaluation."""

import services.frame.program.importing  # noqa: F401, I001  before what takes its time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from models.cache import cache_folder
from models.command import CommandError, natural, run_command
from models.evaluate.measure import Metrics, OnProgress, measure
from models.evaluate.pair import Pair, PairError, Settings
from models.evaluate.report import draw_plot, table, update_card, write_metrics
from models.train.corpus import read_texts
from services.engine.errors import EngineError
from services.frame.program.output import say
from services.frame.program.startup import Parser

PROGRAM = "python -m models.evaluate"
_PAIR = Path(__file__).resolve().parent.parent / "pair"
_QUICK = Settings(
    num_files=8, num_texts=16, num_headers=16, acceptance_tokens=64, repetition_tokens=128, timed_tokens=32
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures as the arguments say. Raises CommandError for whatever cannot be done."""
    options = _parser().parse_args(arguments)
    settings = replace(_QUICK if options.quick else Settings(), seed=options.seed)
    target = options.target or options.pair / "target.gguf"
    draft = options.draft or options.pair / "draft.gguf"
    output = options.output or options.pair
    if not output.is_dir():
        raise CommandError(f"there is no folder {output}")
    texts = _texts(options.texts, options.work_dir)
    try:
        with Pair(target, draft, num_threads=options.threads) as pair:
            metrics = _measure_with_progress(pair, texts, settings)
        _report(output, metrics)
    except (EngineError, PairError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"cannot read or write: {error}") from error


def _texts(folder: Path | None, work_dir: Path | None) -> list[str]:
    try:
        if folder is not None:
            texts = [path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))]
        else:
            work_dir = work_dir or cache_folder() / "train"
            texts = [text for _, text in read_texts(work_dir, "held_out")]
    except (OSError, UnicodeDecodeError) as error:
        made = "" if folder is not None else ": python -m models.train corpus makes them"
        raise CommandError(f"cannot read the held-out files ({error}){made}") from error
    if not texts:
        raise CommandError(f"there is no held-out file in {folder or work_dir}")
    return texts


def _measure_with_progress(pair: Pair, texts: Sequence[str], settings: Settings) -> Metrics:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        return measure(pair, texts, settings, _shown_on(progress))


def _shown_on(progress: Progress) -> OnProgress:
    tasks: dict[str, TaskID] = {}

    def show(what: str, share: float) -> None:
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=1.0)
        progress.update(tasks[what], completed=share)

    return show


def _report(folder: Path, metrics: Metrics) -> None:
    Console().print(Markdown(table(metrics)))
    write_metrics(folder / "metrics.json", metrics)
    try:
        draw_plot(folder / "acceptance.svg", metrics)
    except ModuleNotFoundError:
        say(PROGRAM, "no plot was drawn: the extra 'train' brings matplotlib")
    card = folder / "README.md"
    if not card.exists():
        say(PROGRAM, f"there is no {card} to hold the table")
        return
    try:
        update_card(card, metrics)
    except ValueError as error:
        raise CommandError(str(error)) from error


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Measures a pair on held-out files; writes metrics.json, card and plot.")
    parser.add_argument("--pair", type=Path, default=_PAIR, help="folder of target.gguf and draft.gguf")
    parser.add_argument("--target", type=Path, help="the target (default: target.gguf of the pair)")
    parser.add_argument("--draft", type=Path, help="the draft (default: draft.gguf of the pair)")
    parser.add_argument("--output", type=Path, help="folder to write to (default: the pair's)")
    parser.add_argument(
        "--work-dir",
        type=Path,
        help="where models.train keeps its corpus (default: in the user's cache folder)",
    )
    parser.add_argument("--texts", type=Path, help="measure on the .py files of this folder instead")
    parser.add_argument("--threads", type=natural, default=0, help="threads of a decode (default: all cores)")
    parser.add_argument("--seed", type=natural, default=1, help="seed of what is drawn (default: 1)")
    parser.add_argument("--quick", action="store_true", help="measure a small share of everything")
    return parser


if __name__ == "__main__":
    run_command(PROGRAM, main)
