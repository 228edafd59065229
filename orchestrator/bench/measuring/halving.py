"""Successive halving: one pass over all settings, then several over the best few, as far as the time lasts.

Jamieson and Talwalkar 2016, arXiv 1502.07943: what is clearly worse is not measured as often as what may be the best.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from orchestrator.bench.results.comparison import kept_cases
from orchestrator.bench.systems.system import Setting

NUM_BEST = 3
# The part of the time that is left that can be kept for what comes last.
_MOST_RESERVED = 0.3
# Measures once: system, setting, number of streams, round.
Measure = Callable[[str, Setting, int, int], Awaitable[dict[str, Any] | None]]


class Deadline:
    """When the bench has to end, in seconds from now; never, where there is no limit. Some of it can be reserved."""

    def __init__(self, budget_s: float | None, now_s: Callable[[], float] = time.perf_counter) -> None:
        self._now_s = now_s
        self._end_s = None if budget_s is None else now_s() + budget_s

    def has_room(self, needed_s: float) -> bool:
        """Whether something that takes so long ends in time."""
        return self._end_s is None or self._now_s() + needed_s <= self._end_s

    @property
    def left_s(self) -> float | None:
        """Seconds that are left; None where there is no limit."""
        return None if self._end_s is None else max(self._end_s - self._now_s(), 0.0)

    def reserve(self, needed_s: float) -> bool:
        """Keep so much of the time for what comes last, if that is a small part of it; return whether it is."""
        if self._end_s is None:
            return True
        is_kept = needed_s <= _MOST_RESERVED * (self._end_s - self._now_s())
        self._end_s -= needed_s if is_kept else 0.0
        return is_kept


class Halving:
    """Measures cases in rounds; what is measured again depends on the first round."""

    def __init__(
        self,
        cases: Sequence[tuple[str, Setting]],
        streams: Sequence[int],
        measure: Measure,
        *,
        compared: Sequence[str],
        deadline: Deadline,
        seed: int,
        now_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`compared` are the systems that are measured with each other's best settings."""
        self._cases = cases
        self._streams = streams
        self._measure = measure
        self._compared = compared
        self._deadline = deadline
        self._seed = seed
        self._now_s = now_s
        # How long each case took, by system, setting and number of streams.
        self._took_s: dict[tuple[str, str, int], float] = {}
        self._runs: list[dict[str, Any]] = []

    async def sweep(self) -> bool:
        """Measure every case once, few streams first; return whether there was time for all.

        A run that has not ended when the time is over is cut off and leaves nothing.
        """
        return await self._round(0, {num: list(self._cases) for num in self._streams})

    async def go_on(self, num_rounds: int) -> int:
        """Measure the best of the sweep in so many rounds, or as many as there is time for; return their number."""
        kept = {num: self._kept(num) for num in self._streams}
        for number in range(1, num_rounds + 1):
            needed_s = sum(
                self._expected_s(system, setting.name, num) for num, cases in kept.items() for system, setting in cases
            )
            if not self._deadline.has_room(needed_s) or not await self._round(number, kept):
                return number - 1
        return num_rounds

    async def _round(self, number: int, cases: dict[int, list[tuple[str, Setting]]]) -> bool:
        for num_streams, every in cases.items():
            # Drawn anew in each round, so that nothing is always measured after the same other thing.
            order = random.Random(f"{self._seed} {number} {num_streams}").sample(every, len(every))
            for system, setting in order:
                if not self._deadline.has_room(self._expected_s(system, setting.name, num_streams)):
                    return False
                began_s = self._now_s()
                try:
                    async with asyncio.timeout(self._deadline.left_s):
                        run = await self._measure(system, setting, num_streams, number)
                except TimeoutError:
                    return False
                if run:
                    self._runs.append(run)
                self._took_s[system, setting.name, num_streams] = self._now_s() - began_s
        return True

    def _expected_s(self, system: str, setting: str, num_streams: int) -> float:
        """Return how long a case takes: as long as last time, or as it took for fewer streams, each of them alike."""
        seen = {num: took_s for (*case, num), took_s in self._took_s.items() if case == [system, setting]}
        if num_streams in seen or not seen:
            return seen.get(num_streams, 0.0)
        nearest = max(seen)
        return seen[nearest] * num_streams / nearest

    def _kept(self, num_streams: int) -> list[tuple[str, Setting]]:
        names: dict[str, list[str]] = {}
        for system, setting in self._cases:
            names.setdefault(system, []).append(setting.name)
        kept = kept_cases(self._runs, names, self._compared, num_streams, NUM_BEST)
        measured = {(run["system"], run["setting"]) for run in self._runs if run["num_streams"] == num_streams}
        return [case for case in self._cases if (case[0], case[1].name) in kept & measured]
