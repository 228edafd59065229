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
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from company_measure import Window, measure, meeting, read_decodes, steady_window, within
from company_prompts import PROMPTS
from company_report import best_setting, plot, tables
from company_systems import ROOT, Checkout, Floor, LlamaServer, Models, Services, Setting, System

from models.atomic_file import replacing
from orchestrator.bundled import bundled_pair

THIS, OTHER = "this checkout", "other checkout"
_WARM_UP_TOKENS = 12
_QUIET_S = 0.1
_LONGEST_QUIET_S = 10.0


def tell(line: str) -> None:
    """Say how far it is, where nobody reads results."""
    print(line, file=sys.stderr, flush=True)


def cpu_s(pids: Sequence[int]) -> float:
    """Return the processor time that these processes have taken."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


async def until_quiet(pids: Sequence[int]) -> None:
    """Return when these processes take no processor time: threads spin for a moment after the last decode."""
    deadline_s = time.perf_counter() + _LONGEST_QUIET_S
    before_s = cpu_s(pids)
    while time.perf_counter() < deadline_s:
        await asyncio.sleep(_QUIET_S)
        now_s = cpu_s(pids)
        if now_s == before_s:
            return
        before_s = now_s
    tell("the systems do not come to rest: something else is asked of them")


class Bench:
    """Runs measurements and keeps what came of them in a file."""

    def __init__(self, systems: Sequence[System], num_tokens: int, results: dict[str, Any], path: Path | None) -> None:
        self._systems = systems
        self._num_tokens = num_tokens
        self._path = path
        self.results = results

    async def start(self, running: AsyncExitStack, most_streams: int) -> None:
        """Start all systems, and warm them up."""
        for system in self._systems:
            tell(f"starting {system.name}")
            await system.start(running)
            for setting in system.settings:
                await system.ask(PROMPTS[:most_streams], setting, _WARM_UP_TOKENS)

    async def run(self, system: System, setting: Setting, num_streams: int, round_number: int) -> dict[str, Any]:
        """Measure once; return what is kept of it."""
        own = system.pids(setting)
        others = sorted(
            {pid for each in self._systems for every in each.settings for pid in each.pids(every)} - set(own)
        )
        await until_quiet([*own, *others])
        idle_s, own_s, client_s, began_s = cpu_s(others), cpu_s(own), time.process_time(), time.perf_counter()
        answer = await system.ask(PROMPTS[:num_streams], setting, self._num_tokens)
        took_s = time.perf_counter() - began_s
        shares = {
            "idle_cpu_share": (cpu_s(others) - idle_s) / took_s,
            "own_cpu_share": (cpu_s(own) - own_s) / took_s,
            "client_cpu_share": (time.process_time() - client_s) / took_s,
        }
        window = steady_window(answer.streams)
        run = {
            "system": system.name,
            "setting": setting.name,
            "num_streams": num_streams,
            "round": round_number,
            **measure(answer.streams),
            **shares,
            "counts": answer.counts,
            "window": window,
            "chunks": [
                [(round(chunk.at_s - began_s, 5), chunk.num_tokens) for chunk in stream.chunks]
                for stream in answer.streams
            ],
        }
        tell(
            f"{num_streams:2} streams, {setting.name:>5}, {system.name}: {run['tokens_per_s']:.1f} tokens/s, "
            f"{took_s:.1f} s, others took {shares['idle_cpu_share']:.1%} of a core"
        )
        self.results["runs"].append(run)
        self.save()
        return run

    def save(self) -> None:
        """Write the file."""
        if self._path is not None:
            with replacing(self._path) as temporary:
                temporary.write_text(json.dumps(self.results))

    async def run_round(self, streams: Sequence[int], settings: Sequence[Setting], number: int, halving: bool) -> None:
        """Measure every system with everything, or in later rounds with what is left after halving."""
        shift = number % len(self._systems)
        turns = [*self._systems[shift:], *self._systems[:shift]]
        for num_streams in streams:
            kept = self._kept(num_streams) if halving and number else None
            for setting in settings:
                for system in turns:
                    if setting in system.settings and (kept is None or (system.name, setting.name) in kept):
                        await self.run(system, setting, num_streams, number)

    def _kept(self, num_streams: int) -> set[tuple[str, str]]:
        """Return systems and settings that are measured again: plain decoding, and the best number of draft tokens.

        What is best for one checkout is measured of the other as well, so that they can be compared.
        """
        kept: set[tuple[str, str]] = set()
        checkouts = {system.name for system in self._systems if isinstance(system, Services)}
        for system in self._systems:
            plain = {setting.name for setting in system.settings if not setting.num_draft_tokens}
            best = best_setting(self.results["runs"], system.name, num_streams)
            names = checkouts if system.name in checkouts else {system.name}
            kept |= {(system.name, name) for name in plain} | {(name, best) for name in names if best}
        return kept


async def record(
    name: str, checkout: Checkout, models: Models, streams: Sequence[int], settings: Sequence[Setting], num_tokens: int
) -> list[dict[str, Any]]:
    """Measure a checkout whose services write down their decodes; return runs with an account of the steady state."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decodes"
        services = Services(name, replace(checkout, record=path), models, settings)
        bench = Bench([services], num_tokens, {"runs": []}, None)
        async with AsyncExitStack() as running:
            await bench.start(running, max(streams))
            for num_streams in streams:
                for setting in settings:
                    run = await bench.run(services, setting, num_streams, 0)
                    window = Window(*run["window"])
                    target, draft = (
                        read_decodes(path.with_suffix(f".{kind}").read_text().splitlines())
                        for kind in ("target", "draft")
                    )
                    run["meeting"] = meeting(target, window)
                    run["decodes"] = {"target": within(target, window), "draft": within(draft, window)}
                    runs.append(run)
    return runs


async def compare(arguments: argparse.Namespace, models: Models) -> None:
    """Measure all systems in turns, then who met in the checkouts' decodes, and write what came of it."""
    settings = arguments.settings
    checkouts = {THIS: Checkout(ROOT, shlex.split(arguments.target_flags), shlex.split(arguments.draft_flags))}
    if arguments.against:
        flags = shlex.split(arguments.against_target_flags), shlex.split(arguments.against_draft_flags)
        checkouts[OTHER] = Checkout(arguments.against, *flags)
    systems: list[System] = [Services(name, checkout, models, settings) for name, checkout in checkouts.items()]
    systems += [Floor(models, settings, flash_attention) for flash_attention in arguments.floor]
    if program := arguments.peer_llama_server:
        systems.append(LlamaServer(program, models, settings, shlex.split(arguments.peer_flags)))
    results: dict[str, Any] = {"about": _about(arguments), "runs": [], "recorded": []}
    bench = Bench(systems, arguments.tokens, results, _file(arguments, "json"))
    async with AsyncExitStack() as running:
        await bench.start(running, max(arguments.streams))
        for number in range(arguments.rounds):
            tell(f"round {number + 1} of {arguments.rounds}")
            await bench.run_round(arguments.streams, settings, number, arguments.halving)
    recorded_streams = [num_streams for num_streams in arguments.streams if num_streams > 1]
    drafted = [setting for setting in settings if setting.num_draft_tokens]
    if recorded_streams and drafted and arguments.record:
        for name, checkout in checkouts.items():
            results["recorded"] += await record(name, checkout, models, recorded_streams, drafted, arguments.tokens)
            bench.save()
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
    return {name: str(value) for name, value in vars(arguments).items()} | {"cores": len(os.sched_getaffinity(0))}


async def measure_quickly(models: Models, streams: Sequence[int], num_draft_tokens: int, num_tokens: int) -> str:
    """Return a line of JSON: how many sessions met, and tokens per second, by the number of streams."""
    runs = await record(THIS, Checkout(ROOT), models, streams, [Setting(num_draft_tokens)], num_tokens)
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
        print(asyncio.run(measure_quickly(models, (4, 8), num_draft_tokens=3, num_tokens=256)))
        return
    if max(arguments.streams) > len(PROMPTS):
        parser.error(f"at most {len(PROMPTS)} --streams: there are no more prompts")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    models = Models(*pair, arguments.slots or max(arguments.streams), arguments.context, arguments.threads)
    asyncio.run(compare(arguments, models))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="4 and 8 streams of the bundled pair, 3 draft tokens")
    parser.add_argument("--json", action="store_true", help="what --quick ends with: one line of JSON")
    parser.add_argument("--target", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of the project")
    parser.add_argument("--peer-llama-server", type=Path, metavar="PROGRAM")
    parser.add_argument("--floor", nargs="*", choices=("off", "on"), default=["off"], help="its flash attention")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument(
        "--settings",
        type=Setting.parse,
        nargs="+",
        default=[Setting.parse(name) for name in ("plain", "alone", "1", "3", "7")],
        help="plain, alone (plain without a draft service), or numbers of draft tokens",
    )
    parser.add_argument("--tokens", type=int, default=128, help="of each stream (default: 128)")
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
