"""The command line of the expansion. Prints the path of the file on stdout, everything else on stderr."""

import services.frame.program.importing  # noqa: F401, I001  before what takes its time
import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from models.cache import cache_folder
from models.command import CommandError, natural, positive, run_command
from models.expand.expansion import Expansion
from models.expand.shape import PRESETS, TYPES, ExpansionError, Shape
from models.llama_gguf import LlamaFile, ModelFileError
from services.frame.program.output import say
from services.frame.program.startup import Parser

PROGRAM = "python -m models.expand"


def main(arguments: Sequence[str] | None = None) -> None:
    """Expands as the arguments say. Raises CommandError for whatever cannot be done."""
    options = _parser().parse_args(arguments)
    try:
        expansion = Expansion.plan(options.model, _shape(options), options.type, seed=options.seed)
        output = options.output or default_output(expansion)
        if options.output is None and not options.force and _is_whole(output):
            say(PROGRAM, f"{output} exists already; --force makes it anew")
        else:
            _check_output(options)
            output.parent.mkdir(parents=True, exist_ok=True)
            _write_with_progress(expansion, output)
    except (ModelFileError, ExpansionError) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"cannot write: {error}") from error
    print(output)


def default_output(expansion: Expansion) -> Path:
    """The cache file for an expansion: a name that differs wherever the contents would. Reads the whole model."""
    source, config = expansion.source.path, expansion.config
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    sizes = f"{config.dim}x{config.num_layers}x{config.ffn}"
    seed = f"-seed{expansion.seed}" if expansion.seed else ""
    name = f"{source.stem}-{sizes}-{expansion.file_type}-{digest}{seed}.gguf"
    return cache_folder() / "models" / name


def _is_whole(path: Path) -> bool:
    """Whether a file was made before, and is still what was made: else it is made anew."""
    if not path.exists():
        return False
    try:
        LlamaFile(path)
    except ModelFileError as error:
        say(PROGRAM, f"{error}; making it anew")
        return False
    return True


def _check_output(options: argparse.Namespace) -> None:
    if options.output is None:
        return
    if not options.output.parent.is_dir():
        raise CommandError(f"there is no folder {options.output.parent}")
    if options.output.is_dir():
        raise CommandError(f"{options.output} is a folder: name a file")
    if options.output.exists() and not options.force:
        raise CommandError(f"{options.output} exists already: --force replaces it")


def _write_with_progress(expansion: Expansion, output: Path) -> None:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=1.0)
            progress.update(tasks[what], completed=min(share, 1.0))

        expansion.write(output, show)


def _shape(options: argparse.Namespace) -> Shape:
    preset = PRESETS.get(options.preset)
    sizes = {"--dim": options.dim, "--layers": options.layers, "--ffn": options.ffn}
    if preset is not None:
        defaults = (preset.dim, preset.num_layers, preset.ffn)
        return Shape(*(given or default for given, default in zip(sizes.values(), defaults, strict=True)))
    if missing := [flag for flag, given in sizes.items() if given is None]:
        raise CommandError(f"{' and '.join(missing)} must be given, or --preset ({', '.join(PRESETS)})")
    return Shape(options.dim, options.layers, options.ffn)


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM, description="Makes a GGUF that costs what a larger model costs and says what MODEL says."
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="GGUF of the llama architecture")
    parser.add_argument("--preset", choices=PRESETS, help="sizes by name; single sizes given besides take their place")
    parser.add_argument("--dim", type=positive, help="width of the residual stream")
    parser.add_argument("--layers", type=positive, help="number of layers")
    parser.add_argument("--ffn", type=positive, help="width of the feed-forward part")
    parser.add_argument(
        "--type", type=str.upper, default="BF16", choices=TYPES, help="type of the matrices (default: %(default)s)"
    )
    parser.add_argument("--seed", type=natural, default=0, help="seed of the weights that are added (default: 0)")
    parser.add_argument(
        "--output", type=Path, metavar="PATH", help="file to write (default: in the user's cache folder)"
    )
    parser.add_argument("--force", action="store_true", help="replace the file where it exists")
    return parser


if __name__ == "__main__":
    run_command(PROGRAM, main)
