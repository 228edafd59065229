"""Which cases run, in which rounds, and how the time is kept."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator.bench.measuring.halving import Deadline, Halving
from orchestrator.bench.systems.system import Setting
from tests.unit.orchestrator.bench.runs import run

RATES = {"plain": 10.0, "plain again": 10.0, "1": 5.0, "2": 40.0, "3": 30.0, "5": 20.0, "7": 1.0}
CASES = [("ours", setting) for setting in (Setting("plain"), Setting("again"))]
CASES += [("ours", Setting("fixed", number)) for number in (1, 2, 3, 5, 7)]


@dataclass
class Clock:
    """Time that passes when something is measured, one second each."""

    now_s: float = 0.0
    measured: list[tuple[str, str, int, int]] = field(default_factory=list)
    failing: str = ""

    async def measure(self, system: str, setting: Setting, num_streams: int, number: int) -> dict[str, Any] | None:
        self.now_s += 1.0
        self.measured.append((system, setting.name, num_streams, number))
        if setting.name == self.failing:
            return None
        return run(system, setting.name, RATES[setting.name], number, num_streams)

    def settings(self, number: int) -> set[str]:
        return {setting for _, setting, _, of in self.measured if of == number}


def halving(clock: Clock, budget_s: float | None, streams: list[int]) -> Halving:
    deadline = Deadline(budget_s, lambda: clock.now_s)
    return Halving(
        CASES, streams, clock.measure, compared=["ours"], deadline=deadline, seed=1, now_s=lambda: clock.now_s
    )


async def test_one_pass_over_all_then_rounds_over_plain_decoding_and_the_best_three() -> None:
    clock = Clock()
    rounds = halving(clock, None, [1, 4])
    assert await rounds.sweep()
    assert clock.settings(0) == set(RATES)
    assert await rounds.go_on(5) == 5
    for number in range(1, 6):
        assert clock.settings(number) == {"plain", "plain again", "2", "3", "5"}
    assert len(clock.measured) == 2 * (7 + 5 * 5)


async def test_the_order_is_drawn_anew_in_each_round_and_the_same_for_a_seed() -> None:
    first, second = Clock(), Clock()
    for clock in (first, second):
        rounds = halving(clock, None, [1])
        await rounds.sweep()
        await rounds.go_on(3)
    assert first.measured == second.measured
    orders = [[setting for _, setting, _, of in first.measured if of == number] for number in (1, 2, 3)]
    assert len(set(map(tuple, orders))) > 1


@pytest.mark.parametrize(("budget_s", "num_rounds"), [(7.0, 0), (12.0, 1), (18.0, 2), (1000.0, 5)])
async def test_a_round_begins_only_where_there_is_time_for_all_of_it(budget_s: float, num_rounds: int) -> None:
    clock = Clock()
    rounds = halving(clock, budget_s, [1])
    assert await rounds.sweep()
    assert await rounds.go_on(5) == num_rounds
    assert clock.now_s <= budget_s


async def test_a_sweep_that_takes_too_long_says_so() -> None:
    clock = Clock()
    assert not await halving(clock, 3.0, [1, 4]).sweep()
    assert 3 <= len(clock.measured) <= 4


async def test_what_failed_is_not_measured_again() -> None:
    clock = Clock(failing="2")
    rounds = halving(clock, None, [1])
    await rounds.sweep()
    await rounds.go_on(1)
    assert clock.settings(1) == {"plain", "plain again", "3", "5", "1"}


def test_time_is_kept_for_what_comes_last_where_that_is_a_small_part() -> None:
    deadline = Deadline(100.0, lambda: 0.0)
    assert deadline.reserve(30.0)
    assert deadline.has_room(70.0)
    assert not deadline.has_room(71.0)
    assert not deadline.reserve(30.0)
    assert deadline.has_room(70.0)
    assert Deadline(None).reserve(1e9)


async def test_a_run_that_does_not_end_in_time_is_cut_off() -> None:
    async def endless(system: str, setting: Setting, num_streams: int, number: int) -> None:
        await asyncio.Event().wait()

    rounds = Halving(CASES, [1], endless, compared=["ours"], deadline=Deadline(0.01), seed=1)
    assert not await rounds.sweep()


async def test_what_would_take_too_long_with_more_streams_is_not_begun() -> None:
    clock = Clock()
    # One stream takes 7 s in all, and one case of 4 streams is expected to take 4 s.
    assert not await halving(clock, 10.0, [1, 4]).sweep()
    assert len(clock.measured) == 7
