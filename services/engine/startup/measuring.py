"""What is measured at load: in how much time, how decodes are timed, and that it is measured once.

A start must not take long, so everything that is measured shares one budget. What cannot be found out within it counts
as not found, which is remembered as well: a restarted service must decide as it did before, not as noise will have it.
"""

import logging
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import TypeVar

from services.engine.errors import ModelLoadError
from services.engine.runtime.interface import Runtime, Segment
from services.frame.program.remembered import Remembered

_log = logging.getLogger(__name__)
_LEAST_S, _MOST_S = 0.5, 4.0
_TIMES_LOADING = 2.0
# Of its time, what a work gets before it is judged by its pace: the first steps may cost more than others.
_FIRST_SHARE = 0.25
_NUM_ROUNDS = 5
_FIRST_NEWS_S, _NEWS_EVERY_S = 2.0, 10.0

Clock = Callable[[], float]
Finding = bool | None
"""Yes, no, or not found out."""
KeyT = TypeVar("KeyT", bound=Hashable)


class OutOfTimeError(Exception):
    """The budget is spent, or would be before the end of what was begun."""


class Budget:
    """Seconds, counted from now, that several measurements share."""

    def __init__(self, budget_s: float, clock: Clock = time.perf_counter) -> None:
        self.clock = clock
        self._end_s = clock() + budget_s

    @property
    def left_s(self) -> float:
        """What is left, in seconds; negative where it was overdrawn."""
        return self._end_s - self.clock()

    def part(self, most_s: float) -> "Budget":
        """Return a budget of what is left of this one, and of at most so many seconds."""
        return Budget(min(most_s, self.left_s), self.clock)

    def pace(self) -> Callable[[float], None]:
        """Return what a work calls with the share of it that is done; too slow a work is ended by OutOfTimeError."""
        started_s, available_s = self.clock(), self.left_s

        def check(share: float) -> None:
            if self.clock() - started_s >= available_s * max(share, _FIRST_SHARE):
                raise OutOfTimeError

        return check


def budget_after(loading_s: float, clock: Clock = time.perf_counter) -> Budget:
    """Return what may be spent on measuring a model that took so many seconds to load."""
    return Budget(min(max(_LEAST_S, _TIMES_LOADING * loading_s), _MOST_S), clock)


@dataclass(frozen=True)
class Measuring:
    """What measurements at load have: a budget, what is known from earlier starts, and who hears of a long wait."""

    budget: Budget
    findings: Remembered[Finding]
    announce: Callable[[str], object] = lambda what: None

    def find_out(self, key: str, measure: Callable[[], bool]) -> Finding:
        """Return what is known, or else what `measure` finds; None where the budget did not or does not allow it."""
        if key not in self.findings:
            try:
                found: Finding = measure()
            except OutOfTimeError:
                found = None
            except ModelLoadError as error:
                _log.warning("not measured: %s", error)
                found = None
            self.findings.keep(key, found)
        return self.findings.get(key)

    def find_out_in_full(self, key: str, measure: Callable[[], bool]) -> bool:
        """Return what is known, or else what `measure` finds, however long that takes."""
        found = self.findings.get(key)
        if found is None:
            found = measure()
            self.findings.keep(key, found)
        return found

    def news_of(self, what: str) -> Callable[[float], None]:
        """Return what a work calls with the share of it that is done; what takes long is told of now and then."""
        clock = self.budget.clock
        next_s = clock() + _FIRST_NEWS_S

        def tell(share: float) -> None:
            nonlocal next_s
            if clock() >= next_s:
                next_s = clock() + _NEWS_EVERY_S
                # A warning, as programs that hide the rest show nothing else for minutes.
                _log.warning("starting takes long: %s, %.0f %% done; the next start will know", what, 100 * share)
                self.announce(f"{what}, {share:.0%} done")

        return tell


def findings() -> Remembered[Finding]:
    """Return what services on this machine have found out so far."""
    return Remembered("measured.json", (bool, NoneType))


def least_times(
    turns: Sequence[Mapping[KeyT, Callable[[], object]]],
    budget: Budget,
    enough_s: float,
    *,
    num_rounds: int = _NUM_ROUNDS,
    is_enough: Callable[[Mapping[KeyT, float]], bool] = lambda times: False,
) -> dict[KeyT, float]:
    """Return the least time in seconds of each decode: what else the machine does can only add to it.

    What is compared goes in turn. Each goes twice before the next turn, as llama.cpp builds a graph for the first of
    several decodes alike. Turns end where `is_enough` says so of the times so far, else after some rounds of them all:
    at most `num_rounds`, begun within `enough_s`. Raises OutOfTimeError where the budget ends before the first round.
    """
    times: dict[KeyT, float] = {}
    clock, pace = budget.clock, budget.pace()
    started_s = clock()
    for number in range(num_rounds * len(turns)):
        turn, is_first_round = turns[number % len(turns)], number < len(turns)
        if not is_first_round and (clock() - started_s >= enough_s or budget.left_s <= 0):
            break
        for index, (key, decode) in enumerate((*turn.items(), *turn.items())):
            if is_first_round:
                pace((number + index / (2 * len(turn))) / len(turns))
            begun_s = clock()
            decode()
            times[key] = min(times.get(key, math.inf), clock() - begun_s)
        if is_enough(times):
            break
    return times


def rows_after(runtime: Runtime, length: int, num_rows: int, num_slots: int = 1) -> Callable[[], None]:
    """Return a decode of so many rows of each of the first slots, which hold `length` positions before and after it."""

    def decode() -> None:
        rows = [0] * num_rows
        runtime.decode([Segment(slot, length, rows, num_rows, num_tentative=num_rows) for slot in range(num_slots)])
        for slot in range(num_slots):
            runtime.cut(slot, length)

    return decode
