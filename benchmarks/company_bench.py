"""Measures systems in turns, for company.py: each alone, while the others idle."""

import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from company_measure import meeting, read_decodes, within
from company_prompts import PROMPTS
from company_systems import CheckoutServices, System

from orchestrator.bench.load.streams import NoSteadyStateError, Window, measure, steady_window
from orchestrator.bench.measuring.bench import tell
from orchestrator.bench.measuring.machine import until_quiet, used_s
from orchestrator.bench.results.comparison import kept_cases
from orchestrator.bench.systems.services import Checkout
from orchestrator.bench.systems.system import Models, Setting
from services.frame.program.atomic_file import replacing

_WARM_UP_TOKENS = 4


class Bench:
    """Runs measurements and keeps what came of them in a file."""

    def __init__(
        self, systems: Sequence[System], num_tokens: dict[int, int], results: dict[str, Any], path: Path | None
    ) -> None:
        """Measure systems with so many tokens of each stream, by the number of streams; keep results in the file."""
        self._systems = systems
        self._num_tokens = num_tokens
        self._path = path
        self._is_warm: set[int] = set()
        self.results = results

    async def start(self, running: AsyncExitStack) -> None:
        """Start all systems, and warm them up."""
        for system in self._systems:
            tell(f"starting {system.name}")
            await system.start(running)
            for setting in sorted(system.settings, key=lambda setting: setting.num_draft_tokens, reverse=True):
                await self._warm_up(system, setting)

    async def _warm_up(self, system: System, setting: Setting) -> None:
        """Let these processes evaluate all prompts, so that they are in their caches; with drafts where they draft."""
        if not self._is_warm.issuperset(pids := set(system.processes(setting).values())):
            await system.ask(PROMPTS[: max(self._num_tokens)], setting, _WARM_UP_TOKENS)
            self._is_warm.update(pids)

    async def run(self, system: System, setting: Setting, num_streams: int, number: int) -> dict[str, Any] | None:
        """Measure once, in round `number`; return what is kept of it, None where all streams never ran together."""
        own = list(system.processes(setting).values())
        every = {pid for each in self._systems for of in each.settings for pid in each.processes(of).values()}
        others = sorted(every - set(own))
        if not await until_quiet([*own, *others]):
            tell("the systems do not come to rest: something else is asked of them")
        began_s, used = time.perf_counter(), used_s(own, others)
        answer = await system.ask(PROMPTS[:num_streams], setting, self._num_tokens[num_streams])
        took_s = time.perf_counter() - began_s
        shares = {name: (after - used[name]) / took_s for name, after in used_s(own, others).items()}
        case = f"{num_streams:2} streams, {setting.name:>5}, {system.name}"
        try:
            window = steady_window(answer.streams)
        except NoSteadyStateError as error:
            tell(f"{case}: {error}")
            return None
        run = {
            "system": system.name,
            "setting": setting.name,
            "num_streams": num_streams,
            "round": number,
            **measure(answer.streams),
            "cpu_shares": shares,
            "counts": answer.counts,
            "window": window,
        }
        tell(
            f"{case}: {run['tokens_per_s']:.1f} tokens/s, {took_s:.1f} s; of a core took "
            + ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        )
        self.results["runs"].append(run)
        self.save()
        return run

    def save(self) -> None:
        """Write the file."""
        if self._path is not None:
            with replacing(self._path) as temporary:
                temporary.write_text(json.dumps(self.results))

    async def run_round(self, settings: Sequence[Setting], number: int, halving: bool) -> None:
        """Measure every system with everything, or in later rounds with what is left after halving."""
        shift = number % len(self._systems)
        turns = [*self._systems[shift:], *self._systems[:shift]]
        names = {system.name: [setting.name for setting in system.settings] for system in turns}
        checkouts = [system.name for system in turns if isinstance(system, CheckoutServices)]
        for num_streams in self._num_tokens:
            kept = kept_cases(self.results["runs"], names, checkouts, num_streams) if halving and number else None
            for setting in settings:
                for system in turns:
                    if setting in system.settings and (kept is None or (system.name, setting.name) in kept):
                        await self.run(system, setting, num_streams, number)


async def record(
    name: str, checkout: Checkout, models: Models, num_tokens: dict[int, int], settings: Sequence[Setting]
) -> list[dict[str, Any]]:
    """Measure a checkout whose services write down their decodes; return runs, with who met in the steady state."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "decodes"
        services = CheckoutServices(name, checkout, models, settings, path)
        bench = Bench([services], num_tokens, {"runs": []}, None)
        async with AsyncExitStack() as running:
            await bench.start(running)
            for num_streams in num_tokens:
                for setting in settings:
                    if run := await bench.run(services, setting, num_streams, 0):
                        runs.append(run | _account(path, Window(*run["window"])))
    return runs


def _account(path: Path, window: Window) -> dict[str, Any]:
    """Return who met in the decodes of a window, and the decodes of both services."""
    target, draft = (
        within(read_decodes(path.with_suffix(f".{kind}").read_text().splitlines()), window)
        for kind in ("target", "draft")
    )
    return {"meeting": meeting(target, window), "decodes": {"target": target, "draft": draft}}
