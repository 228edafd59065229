"""All that is worth measuring on a machine with a GPU, in under 12 minutes: costs, bench beside a peer, exactness.

`python benchmarks/gpu/run.py --out FOLDER [--preset 8b | --target PATH --draft PATH] [--peer-llama-server PROGRAM]`
runs the parts one after the other, each under a limit of its own, and writes after each of them: `costs.json`,
`bench.json` and `bench.md`, `exactness.log` (JSON lines), a log of each part, and `parts.json` with what became of all.
A part that fails or takes too long costs only itself. `--preset` expands the bundled pair first, into the folder for
temporary files; `--only costs bench` leaves parts out, `--limit bench=200` changes one's seconds, and
`--flags "costs=--slots 16"` gives one further flags. Without a GPU it does the same on the CPU.
"""

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from parts import Part, run_parts

from orchestrator.stack.bundled import bundled_pair

ROOT = Path(__file__).parents[2]
# Together with what ends and starts between them under 12 minutes.
LIMITS_S = {"models": 90.0, "costs": 150.0, "bench": 240.0, "exactness": 100.0, "exactness-short": 100.0}
TOTAL_S = 700.0
# Of its limit, what a part is told to take: the rest is for loading models and for ending in order.
_SHARE = 0.8
_SHORT_LENGTHS = ("230", "150", "60", "60", "40", "40")


def planned_parts(arguments: argparse.Namespace) -> list[Part]:
    """Return what is to be run."""
    folder: Path = arguments.out
    limits: Mapping[str, float] = LIMITS_S | dict(arguments.limit)
    further: Mapping[str, Sequence[str]] = dict(arguments.flags)
    target, draft = _models(arguments)
    models = ("--target", str(target), "--draft", str(draft))
    outrider = (sys.executable, "-m", "orchestrator.cli")
    exactness = (sys.executable, str(ROOT / "benchmarks/exactness.py"), "--target", str(target), "--exact", "each")
    exactness += ("--gpu-layers", "-1", "--schedules", "10")
    peer = ("--peer-llama-server", arguments.peer_llama_server) if arguments.peer_llama_server else ()
    budget = {name: ("--budget", str(int(_SHARE * limit_s) or 1)) for name, limit_s in limits.items()}
    commands = {
        "models": _expand(arguments.preset, target, draft) if arguments.preset else (),
        "costs": (*outrider, "costs", *models, *budget["costs"], "--out", str(folder / "costs.json")),
        "bench": (
            *(*outrider, "bench", *models, *budget["bench"], "--out", str(folder / "bench")),
            # A token of the draft costs so little of a pass there that long drafts are among the best.
            *("--streams", "1,8,16", "--settings", "plain,auto,3,7,12", *peer),
        ),
        "exactness": exactness,
        # Where all contexts are short, more ways are exact on a GPU.
        "exactness-short": (*exactness, "--lengths", *_SHORT_LENGTHS),
    }
    return [
        Part(name, (*command, *further.get(name, ())), limits[name])
        for name, command in commands.items()
        if command and name in arguments.only
    ]


def _models(arguments: argparse.Namespace) -> tuple[Path, Path]:
    if arguments.preset:
        folder = Path(tempfile.gettempdir()) / f"outrider-{arguments.preset}"
        folder.mkdir(exist_ok=True)
        return folder / "target.gguf", folder / "draft.gguf"
    if arguments.target and arguments.draft:
        return arguments.target, arguments.draft
    return bundled_pair()


def _expand(preset: str, target: Path, draft: Path) -> tuple[str, ...]:
    """Return the command that expands the bundled pair to a preset, where that has not been done."""
    commands = [
        f"test -f {shlex.quote(str(path))} || "
        + shlex.join((sys.executable, "-m", "models.expand", str(source), "--preset", name, "--output", str(path)))
        for source, name, path in zip(bundled_pair(), (preset, f"draft-{preset}"), (target, draft), strict=True)
    ]
    return ("bash", "-ec", "\n".join(commands))


def main() -> None:
    """Run as the command line says; exit code 1 where a part did not come to a good end."""
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    outcomes = run_parts(planned_parts(arguments), arguments.out, arguments.total_s)
    for each in outcomes:
        became = each.problem or (
            f"ended after {each.limit_s:g} s" if each.was_ended else f"exit code {each.exit_code}"
        )
        print(f"{each.name}: {became}, {each.took_s:.0f} s")
    sys.exit(0 if all(each.is_good for each in outcomes) else 1)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what a command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for results and logs")
    parser.add_argument("--target", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--preset", choices=("1b", "3b", "8b"), help="expand the bundled pair to this size first")
    parser.add_argument("--peer-llama-server", metavar="PROGRAM")
    parser.add_argument("--only", nargs="+", choices=LIMITS_S, default=list(LIMITS_S))
    parser.add_argument("--limit", nargs="+", type=_of_part(float), default=[], metavar="PART=SECONDS")
    parser.add_argument("--flags", nargs="+", type=_of_part(shlex.split), default=[], metavar="PART=FLAGS")
    parser.add_argument("--total-s", type=float, default=TOTAL_S, help="of all parts together")
    return parser.parse_args(argv)


def _of_part(convert: Callable[[str], object]) -> Callable[[str], tuple[str, object]]:
    def read(text: str) -> tuple[str, object]:
        name, _, value = text.partition("=")
        if name not in LIMITS_S:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(LIMITS_S)}")
        return name, convert(value)

    return read


if __name__ == "__main__":
    main()
