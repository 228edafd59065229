"""In which order decodes are measured, and until when. The clock is the test's."""

from collections import Counter
from dataclasses import dataclass

import pytest

from services.engine.costs.rounds import run_rounds, visit


@dataclass(frozen=True)
class Decode:
    num_rows: int
    duration_s: float


class Machine:
    """Decodes take the time that they say."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.measured: list[Decode] = []
        self.undone = 0

    def clock(self) -> float:
        return self.now_s

    def work(self, duration_s: float) -> None:
        self.now_s += duration_s

    def measure(self, decode: Decode) -> list[float]:
        """As `visit` does: a decode that does not count, and one that does."""
        self.measured.append(decode)
        self.work(2 * decode.duration_s)
        return [decode.duration_s]

    def undo(self) -> None:
        self.undone += 1
        self.now_s += 7.0


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize(("duration_s", "num_undone"), [(0.3, 2), (1.0, 1)])
def test_a_slow_decode_is_timed_once_and_what_undoes_it_is_not(
    machine: Machine, duration_s: float, num_undone: int
) -> None:
    seen = visit(lambda: machine.work(duration_s), machine.undo, machine.clock)
    assert seen == pytest.approx([duration_s])
    assert machine.undone == num_undone


def test_a_quick_decode_is_timed_more_often(machine: Machine) -> None:
    assert visit(lambda: machine.work(0.02), machine.undo, machine.clock) == pytest.approx([0.02] * 3)
    assert len(visit(lambda: machine.work(0.0), machine.undo, machine.clock)) == 8


def test_few_rows_come_first_and_then_all_in_turn(machine: Machine) -> None:
    decodes = [Decode(rows, 0.01 * rows) for rows in (4, 1, 2)]
    run_rounds(decodes, machine.measure, 1000.0, machine.clock)
    assert [decode.num_rows for decode in machine.measured[:3]] == [1, 2, 4]
    assert set(Counter(machine.measured).values()) == {21}
    rounds = [machine.measured[first : first + 3] for first in range(0, 63, 3)]
    assert all(set(each) == set(decodes) for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1


def test_nothing_is_begun_that_would_not_end_in_time(machine: Machine) -> None:
    decodes = [Decode(1, 1.0), Decode(2, 1.5), Decode(16, 20.0)]
    run_rounds(decodes, machine.measure, 10.0, machine.clock)
    assert machine.now_s <= 10.0
    assert decodes[2] not in machine.measured
    assert {decodes[0], decodes[1]} <= set(machine.measured)


def test_without_time_one_decode_of_the_fewest_rows_is_tried(machine: Machine) -> None:
    run_rounds([Decode(2, 1.0), Decode(1, 1.0)], machine.measure, 0.0, machine.clock)
    assert [decode.num_rows for decode in machine.measured] == [1]
