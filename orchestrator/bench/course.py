"""A whole bench, from the start of the systems to the last round."""

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from orchestrator.bench.measuring.bench import Bench, Load, Results, tell
from orchestrator.bench.measuring.halving import Deadline, Halving
from orchestrator.bench.measuring.machine import watched_gpus
from orchestrator.bench.results.comparison import best_setting
from orchestrator.bench.systems.services import Services
from orchestrator.bench.systems.system import AUTO, FAILURES, PLAIN, Setting, System
from orchestrator.bench.traced import trace_runs


@dataclass(frozen=True)
class Course:
    """How long to measure: with so many streams each, in so many rounds after the sweep, until the deadline.

    Where `spans_path` is given, runs with traces follow, and their spans are kept there; with `is_drawn` beside
    pictures of who was in which decode.
    """

    streams: Sequence[int]
    num_rounds: int
    deadline: Deadline
    seed: int = 1
    spans_path: Path | None = None
    is_drawn: bool = False


async def run_bench(systems: Sequence[System], load: Load, course: Course, results: Results) -> None:
    """Measure all systems; the first one is ours, with which all others are compared.

    Raises what the first one raises where it does not start: RefusedError, CrashedError, ServiceError.
    """
    ours, began_s = systems[0], time.perf_counter()
    async with watched_gpus() as gpus, AsyncExitStack() as running:
        bench = Bench(systems, load, results, gpus)
        await bench.start(running, max(course.streams), needed=ours.name)
        start_s = time.perf_counter() - began_s
        if isinstance(ours, Services):
            results.about["models"] = await _models(ours)
        results.about |= {"systems": {system.name: system.about for system in systems}, "gpus": gpus.names}
        halving = Halving(
            bench.cases,
            course.streams,
            bench.run,
            compared=[system.name for system in systems if isinstance(system, Services)],
            deadline=course.deadline,
            seed=course.seed,
        )
        tell("one pass over all settings")
        results.found["is_swept"] = await halving.sweep()
        if not results.found["is_swept"]:
            tell("there was no time for all settings: give more of it (--budget), or fewer of them")
        needed_s = start_s + _traced_s(ours, course.streams, results)
        is_traced = course.spans_path is not None and course.deadline.reserve(needed_s)
        if results.found["is_swept"] and course.num_rounds:
            rounds = "1 round" if course.num_rounds == 1 else f"{course.num_rounds} rounds"
            tell(f"{rounds} over plain decoding and the best settings, as far as the time lasts")
            results.found["num_rounds"] = await halving.go_on(course.num_rounds)
        results.save()
    # What was measured has ended, so that its memory is free.
    if course.spans_path is not None and not is_traced:
        tell("no runs with traces: there is no time for them")
    elif course.spans_path is not None and isinstance(ours, Services):
        cases = traced_cases(ours, course.streams, results)
        try:
            await trace_runs(ours, cases, load, results, course.spans_path, is_drawn=course.is_drawn)
        except FAILURES as error:
            results.failures.append({"system": f"{ours.name} with traces", "error": str(error)})
            results.save()


def _traced_s(ours: System, streams: Sequence[int], results: Results) -> float:
    """Return about how long runs with traces take, each as long as the slowest one with so many streams."""
    took_s: dict[int, float] = {}
    for run in results.runs:
        if run["system"] == ours.name:
            took_s[run["num_streams"]] = max(took_s.get(run["num_streams"], 0.0), run["took_s"])
    return sum(took_s.get(num_streams, 0.0) for _, num_streams in traced_cases(ours, streams, results))


def traced_cases(ours: System, streams: Sequence[int], results: Results) -> list[tuple[Setting, int]]:
    """Return what is traced with each number of streams: plain decoding, the best setting that drafts, and `auto`."""
    by_name = {setting.name: setting for setting in ours.settings}
    found = []
    for num_streams in streams:
        names = dict.fromkeys((PLAIN, best_setting(results.runs, ours.name, num_streams), AUTO))
        found += [(by_name[name], num_streams) for name in names if name and name in by_name]
    return found


async def _models(services: Services) -> dict[str, Any]:
    """Return what the services say of their models, without what concerns every token."""
    status = await services.status(services.settings[0])
    found = {}
    for name in ("target", "draft"):
        if status.HasField(name):
            told = MessageToDict(getattr(status, name).model, preserving_proto_field_name=True)
            found[name] = {key: value for key, value in told.items() if not isinstance(value, list | dict)}
    return found
