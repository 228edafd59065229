"""The command line of the training steps."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from models.cache import cache_folder
from models.command import CommandError
from services.frame.program.output import CODE_INTERRUPTED, guarded_output, say
from services.frame.program.startup import CODE_REFUSED

PROGRAM = "python -m models.train"
MINUTES = {"target": 54.0, "draft": 63.0, "together": 25.0}
"""Time budgets of the steps that train, for two CPU cores."""
MODELS_DIR = Path(__file__).resolve().parent.parent


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Make the bundled pair, step by step.")
    steps = parser.add_subparsers(dest="step", required=True)
    for name, text in (
        ("corpus", "collect permissively licensed Python files and their manifest"),
        ("tokenizer", "learn the tokenizer and write the token files"),
        ("target", "train the target"),
        ("draft", "distil the draft from the target"),
        ("together", "train both on, each towards the other"),
        ("export", "write target.gguf and draft.gguf"),
    ):
        step = steps.add_parser(name, help=text, description=text)
        step.add_argument("--work-dir", type=Path, help="working files (default: in the user's cache folder)")
        if name == "tokenizer" or name in MINUTES:
            step.add_argument("--seed", type=int, default=1, help="seed of every random choice (default: %(default)s)")
        if name in MINUTES:
            step.add_argument(
                "--minutes", type=_positive, default=MINUTES[name], help="time budget (default: %(default)s)"
            )
            step.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
            if name == "together":
                step.add_argument("--start", type=Path, help="train on the target.gguf and draft.gguf of this folder")
            step.add_argument("--no-compile", action="store_true", help="do without torch.compile")
        if name == "export":
            step.add_argument("--out", type=Path, default=MODELS_DIR / "pair", help="folder (default: %(default)s)")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def _run(arguments: argparse.Namespace) -> None:
    work_dir: Path = arguments.work_dir or cache_folder() / "train"
    work_dir.mkdir(parents=True, exist_ok=True)
    # Imported only now: the first two steps run without PyTorch.
    step = import_module(f"models.train.{arguments.step}")
    if arguments.step == "corpus":
        files = step.build_corpus(work_dir)
        print(f"corpus: {len(files)} files, {sum(file.split == 'held_out' for file in files)} held out")
    elif arguments.step == "tokenizer":
        step.build_tokenizer(work_dir)
        for split in ("train", "held_out"):
            print(f"tokenizer: {step.write_token_file(work_dir, split, arguments.seed):,} tokens in {split}.bin")
    elif arguments.step == "export":
        step.export_pair(work_dir, arguments.out)
    else:
        train = getattr(step, f"train_{arguments.step}")
        options = {"resume": arguments.resume, "is_compiled": not arguments.no_compile}
        if arguments.step == "together":
            options["start"] = arguments.start
        train(work_dir, arguments.minutes, arguments.seed, **options)


@guarded_output(PROGRAM)
def main(argv: Sequence[str] | None = None) -> int:
    """Run one step; returns the exit code (2 for bad input, said in one sentence)."""
    arguments = _parser().parse_args(argv)
    try:
        _run(arguments)
    except KeyboardInterrupt:
        say(PROGRAM, "stopped; --resume goes on from the last checkpoint")
        return CODE_INTERRUPTED
    except (CommandError, ModuleNotFoundError, OSError, subprocess.CalledProcessError) as error:
        say(PROGRAM, _sentence(error))
        return CODE_REFUSED
    return 0


def _sentence(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return f"{error.filename} is missing: run the earlier steps (or leave out --resume)"
        case ModuleNotFoundError():
            return f"{error.name} is not installed: pip install 'outrider[train]'"
        case subprocess.CalledProcessError():
            return f"pip could not install the packages of the corpus: it ended with {error.returncode}"
        case OSError():
            return f"cannot read or write: {error}"
        case _:
            return str(error)
