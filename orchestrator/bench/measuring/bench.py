"""Measures systems in turns, each alone while the others idle, and keeps what came of every run in a file."""

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.bench.load.prompts import Prompt, for_streams
from orchestrator.bench.load.streams import (
    NoSteadyStateError,
    Stream,
    Window,
    first_token_ms,
    measure,
    run_to_end,
    steady_window,
    whole_window,
)
from orchestrator.bench.measuring.machine import GoneError, Gpus, memory_bytes, until_quiet, used_s
from orchestrator.bench.results.checks import agreements
from orchestrator.bench.results.counting import count
from orchestrator.bench.systems.services import Services
from orchestrator.bench.systems.system import FAILURES, Setting, System
from services.frame.program.atomic_file import replacing
from services.frame.program.startup import StartupError

_WARM_UP_TOKENS = 4
# A steady state is believed where it is at least this part of the whole time.
_LEAST_STEADY = 0.2


class Case(NamedTuple):
    """What one run measures, by the names of its system and setting."""

    system: str
    setting: str
    num_streams: int


@dataclass(frozen=True)
class Load:
    """What every run asks for. Streams arrive all at once, or at random at `rate` a second where that is not 0."""

    prompts: Sequence[Prompt]
    num_tokens: int
    rate: float = 0.0
    seed: int = 1

    def delays_s(self, num_streams: int) -> list[float]:
        """Return when each stream begins; nothing where all begin at once. The same for every run of so many streams.

        The times between arrivals are exponential, so that arrivals are a Poisson process.
        """
        if not self.rate:
            return []
        drawn = random.Random(f"{self.seed} {num_streams}")
        delays_s = [0.0]
        for _ in range(num_streams - 1):
            delays_s.append(delays_s[-1] + drawn.expovariate(self.rate))
        return delays_s


def tell(line: str) -> None:
    """Say how far it is, where nobody reads results."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Do the same as `replacing`, but raise StartupError where the file cannot be written, as on a full disk."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise StartupError(f"cannot write {path}: {error.strerror or error}") from error


@dataclass
class Results:
    """What was measured so far: `about` it, one entry for each run, what went wrong, and what was found out besides.

    It is written to `path` after every change that is told. `doing` is what is under way, for those who watch.
    """

    about: dict[str, Any]
    path: Path | None = None
    runs: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    doing: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {"about": self.about, "runs": self.runs, "failures": self.failures, **self.found}

    def save(self) -> None:
        """Write the file. Raises StartupError where that cannot be."""
        if self.path is not None:
            with writing(self.path) as temporary:
                temporary.write_text(json.dumps(self.to_json()))


class Bench:
    """Runs measurements of systems that it starts. One that fails costs its own results, no others'."""

    def __init__(self, systems: Sequence[System], load: Load, results: Results, gpus: Gpus) -> None:
        self._load = load
        self._gpus = gpus
        self._started: dict[str, System] = {}
        self._is_warm: set[int] = set()
        self._systems = systems
        self.results = results

    async def start(self, running: AsyncExitStack, most_streams: int, *, needed: str) -> None:
        """Start all systems, and warm them up with so many streams.

        One that fails is left out, and told; the one that is `needed` raises.
        """
        for system in self._systems:
            self.results.doing = f"starting {system.name}"
            tell(self.results.doing)
            try:
                for setting_name, problem in (await system.start(running)).items():
                    self._fail({"system": system.name, "setting": setting_name}, ConnectionError(problem))
                for setting in sorted(system.settings, key=lambda each: each.num_draft_tokens, reverse=True):
                    await self._warm_up(system, setting, most_streams)
                if isinstance(system, Services):
                    await system.rehearse(for_streams(self._load.prompts, most_streams), self._load.num_tokens)
            except FAILURES as error:
                if system.name == needed:
                    raise
                self._fail({"system": system.name}, error)
            else:
                self._started[system.name] = system

    @property
    def cases(self) -> list[tuple[str, Setting]]:
        """What can be measured, by any number of streams."""
        return [(name, setting) for name, system in self._started.items() for setting in system.settings]

    async def _warm_up(self, system: System, setting: Setting, most_streams: int) -> None:
        """Let these processes evaluate all prompts, so that they are in their caches; with drafts where they draft."""
        pids = set(system.processes(setting).values())
        if not pids or not self._is_warm.issuperset(pids):
            self.results.doing = f"{system.name} reads the prompts"
            prompts = for_streams(self._load.prompts, most_streams)
            await run_to_end([system.asking(prompt, setting, _WARM_UP_TOKENS) for prompt in prompts])
            self._is_warm |= pids

    async def run(self, system_name: str, setting: Setting, num_streams: int, number: int) -> dict[str, Any] | None:
        """Measure once, in round `number`; return what is kept of it, None where it failed."""
        case = Case(system_name, setting.name, num_streams)._asdict() | {"round": number}
        self.results.doing = _named(case) + (f", round {number}" if number else "")
        try:
            run = case | await self._measure(self._started[system_name], setting, num_streams)
        except (*FAILURES, GoneError, NoSteadyStateError) as error:
            self._fail(case, error)
            return None
        self.results.runs.append(run)
        self.results.save()
        tell(f"{_named(case)}: {run['tokens_per_s']:.1f} tokens/s, {run['took_s']:.1f} s")
        return run

    async def _measure(self, system: System, setting: Setting, num_streams: int) -> dict[str, Any]:
        processes = system.processes(setting)
        own, others = list(processes.values()), self._others(processes)
        is_quiet = await until_quiet([*own, *others])
        prompts = for_streams(self._load.prompts, num_streams)
        began_s, used = time.perf_counter(), used_s(own, others)
        streams = await run_to_end(
            [system.asking(prompt, setting, self._load.num_tokens) for prompt in prompts],
            self._load.delays_s(num_streams),
        )
        ended_s = time.perf_counter()
        took_s = ended_s - began_s
        shares = {name: (after - used[name]) / took_s for name, after in used_s(own, others).items()}
        window, is_steady = _window(streams, is_at_once=not self._load.rate)
        return {
            **measure(streams, window),
            **first_token_ms(streams),
            **count(streams, prompts),
            "took_s": took_s,
            "is_steady": is_steady,
            "was_quiet": is_quiet,
            "cpu_shares": shares,
            "memory_bytes": memory_bytes(processes),
            "gpu": self._gpus.between(began_s, ended_s),
            "agreements": agreements(streams),
        }

    def _others(self, processes: dict[str, int]) -> list[int]:
        every = {pid for each in self._started.values() for of in each.settings for pid in each.processes(of).values()}
        return sorted(every - set(processes.values()))

    def _fail(self, case: dict[str, Any], error: Exception) -> None:
        sentence = str(error) or type(error).__name__
        tell(f"{_named(case)} failed: {sentence}")
        self.results.failures.append(case | {"error": sentence})
        self.results.save()


def _window(streams: Sequence[Stream], *, is_at_once: bool) -> tuple[Window, bool]:
    """Return the time that counts, and whether it is the steady state: the whole time where that is too short.

    Raises NoSteadyStateError where nothing came.
    """
    whole = whole_window(streams)
    if is_at_once:
        try:
            steady = steady_window(streams)
        except NoSteadyStateError:
            return whole, False
        if steady.end_s - steady.start_s >= _LEAST_STEADY * (whole.end_s - whole.start_s):
            return steady, True
    return whole, False


def _named(case: dict[str, Any]) -> str:
    if "num_streams" not in case:
        return ", ".join(map(str, case.values()))
    return case_in_words(case["system"], case["setting"], case["num_streams"])


def case_in_words(system: str, setting: str, num_streams: int) -> str:
    """Return what one run measures, as it is told."""
    return f"{system}, {setting}, {num_streams} stream{'s' if num_streams > 1 else ''}"
