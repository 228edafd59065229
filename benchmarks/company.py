"""What many streams at once get from the target, and how many of their sessions meet in one decode of it.

`python benchmarks/company.py --target PATH --draft PATH [--against CHECKOUT] [--peer-llama-server PROGRAM]` measures
this checkout beside another one, a bare loop over the same libraries, and llama-server: for 1, 4, 8 and 16 streams,
plainly, without a draft service (`alone`), and with 1, 3 and 7 draft tokens. The systems take turns; the others idle.
Counted is the time while all streams run. Written are OUT.json with all that was measured, OUT.md with medians, and
OUT.svg with who was in which decode.

`--quick --json` takes the bundled pair and this checkout only, and ends with a line of JSON.
"""

import argparse
import asyncio
import json
import os
import shlex
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from company_bench import Bench, record
from company_peers import Floor
from company_prompts import PROMPTS
from company_report import plot, tables
from company_systems import ROOT, CheckoutServices, CutLlamaServer, System

from orchestrator.bench.measuring.bench import tell
from orchestrator.bench.systems.services import Checkout
from orchestrator.bench.systems.system import Models, Setting
from orchestrator.stack.bundled import bundled_pair

THIS, OTHER = "this checkout", "other checkout"


async def compare(arguments: argparse.Namespace, models: Models) -> None:
    """Measure all systems in turns, then who met in the checkouts' decodes, and write what came of it."""
    settings = arguments.settings
    checkouts = {THIS: Checkout(ROOT, shlex.split(arguments.target_flags), shlex.split(arguments.draft_flags))}
    if arguments.against:
        flags = shlex.split(arguments.against_target_flags), shlex.split(arguments.against_draft_flags)
        checkouts[OTHER] = Checkout(arguments.against, *flags)
    systems: list[System] = [CheckoutServices(name, checkout, models, settings) for name, checkout in checkouts.items()]
    systems += [Floor(models, settings, flash_attention) for flash_attention in arguments.floor]
    if program := arguments.peer_llama_server:
        systems.append(CutLlamaServer(program, models, settings, shlex.split(arguments.peer_flags)))
    results: dict[str, Any] = {"about": _about(arguments), "runs": [], "recorded": []}
    bench = Bench(systems, arguments.num_tokens, results, _file(arguments, "json"))
    async with AsyncExitStack() as running:
        await bench.start(running)
        for number in range(arguments.rounds):
            tell(f"round {number + 1} of {arguments.rounds}")
            await bench.run_round(settings, number, arguments.halving)
    shared = {streams: num for streams, num in arguments.num_tokens.items() if streams > 1}
    drafted = [setting for setting in settings if setting.num_draft_tokens]
    if shared and drafted and arguments.record:
        for name, checkout in checkouts.items():
            results["recorded"] += await record(name, checkout, models, shared, drafted)
            bench.save()
    report(arguments, results)


def report(arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    """Print and write the tables, and draw the picture where it is asked for."""
    written = tables(results, THIS, OTHER)
    _file(arguments, "md").write_text(written)
    print(written, end="")
    if arguments.plot and results["recorded"]:
        num_streams, setting = arguments.plot
        plot(results["recorded"], int(num_streams), setting, arguments.plot_s, _file(arguments, "svg"))


def _file(arguments: argparse.Namespace, ending: str) -> Path:
    out: Path = arguments.out
    return out.with_name(f"{out.name}.{ending}")


def _about(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for, files by name, and on how many cores."""
    values = {name: value.name if isinstance(value, Path) else str(value) for name, value in vars(arguments).items()}
    return values | {"cores": len(os.sched_getaffinity(0))}


async def measure_quickly(models: Models, num_tokens: dict[int, int], num_draft_tokens: int) -> str:
    """Return a line of JSON: how many sessions met, and tokens per second, by the number of streams."""
    runs = await record(THIS, Checkout(ROOT), models, num_tokens, [Setting("fixed", num_draft_tokens)])
    if len(runs) < len(num_tokens):
        raise SystemExit("the streams did not run together: measure on an idle machine")
    by_streams = {str(run["num_streams"]): run for run in runs}
    met = {key: round(run["meeting"]["sessions_per_decode"], 2) for key, run in by_streams.items()}
    line = {
        "num_draft_tokens": num_draft_tokens,
        "sessions_per_decode": met,
        "tokens_per_s": {key: round(run["tokens_per_s"], 1) for key, run in by_streams.items()},
        "window_s": {key: round(run["window_s"], 2) for key, run in by_streams.items()},
        "num_decodes": {key: run["meeting"]["num_decodes"] for key, run in by_streams.items()},
    }
    return json.dumps(line)


def main() -> None:
    """Measure as the command line says."""
    parser = _parser()
    arguments = parser.parse_args()
    if (arguments.target is None) != (arguments.draft is None):
        parser.error("--target and --draft are given together, or neither for the bundled pair")
    pair = (arguments.target, arguments.draft) if arguments.target else bundled_pair()
    if arguments.quick:
        models = Models(*pair, slots=8, context=1024, threads=arguments.threads)
        print(asyncio.run(measure_quickly(models, {4: 256, 8: 256}, num_draft_tokens=3)))
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.report:
        report(arguments, json.loads(_file(arguments, "json").read_text()))
        return
    if max(arguments.streams) > len(PROMPTS):
        parser.error(f"at most {len(PROMPTS)} --streams: there are no more prompts")
    if len(arguments.tokens) not in (1, len(arguments.streams)):
        parser.error("--tokens is one number, or one for each of --streams")
    tokens = arguments.tokens * (len(arguments.streams) if len(arguments.tokens) == 1 else 1)
    arguments.num_tokens = dict(zip(arguments.streams, tokens, strict=True))
    models = Models(*pair, arguments.slots or max(arguments.streams), arguments.context, arguments.threads)
    asyncio.run(compare(arguments, models))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="4 and 8 streams of the bundled pair, 3 draft tokens")
    parser.add_argument("--json", action="store_true", help="what --quick ends with: one line of JSON")
    parser.add_argument("--report", action="store_true", help="measure nothing: tables and picture of OUT.json")
    parser.add_argument("--target", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of the project")
    parser.add_argument("--peer-llama-server", type=Path, metavar="PROGRAM")
    parser.add_argument("--floor", nargs="*", choices=("off", "on"), default=["off"], help="its flash attention")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16], help="at once")
    parser.add_argument(
        "--settings",
        type=Setting.parse,
        nargs="+",
        default=[Setting.parse(name) for name in ("plain", "alone", "1", "3", "7")],
        help="plain, alone (plain without a draft service), or numbers of draft tokens",
    )
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[128], help="of each stream: a number, or one for each of --streams"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--halving",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure again only plain decoding and each system's best number of draft tokens (default)",
    )
    parser.add_argument(
        "--record", action=argparse.BooleanOptionalAction, default=True, help="find out who met in decodes (default)"
    )
    parser.add_argument("--plot", nargs=2, metavar=("STREAMS", "DRAFT_TOKENS"), help="draw who was in which decode")
    parser.add_argument("--plot-s", type=float, default=1.5, help="seconds that are drawn")
    parser.add_argument("--slots", type=int, default=0, help="of every system; as many as streams if absent")
    parser.add_argument("--context", type=int, default=1024, help="tokens of each slot (default: 1024)")
    parser.add_argument("--threads", type=int, default=0, help="of a decode; 0 takes all cores")
    for name, whose in (("target", "the target's of this checkout"), ("draft", "the draft's of this checkout")):
        parser.add_argument(f"--{name}-flags", default="", metavar="FLAGS", help=f"further flags, {whose}")
        parser.add_argument(f"--against-{name}-flags", default="", metavar="FLAGS", help="the same of the other one")
    parser.add_argument("--peer-flags", default="", metavar="FLAGS", help="further flags of llama-server")
    parser.add_argument("--out", type=Path, default=Path("build/company"), help="files to write, without their ending")
    return parser


if __name__ == "__main__":
    main()
