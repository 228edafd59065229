"""In which order decodes are measured, how often, and until when.

The first round takes what has few rows first, so that a short time gives the most points. The rounds after it take all
that was measured in a new order each, so that whatever else the machine does in some seconds hits all alike.
"""

import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

_MOST_ROUNDS = 20
# One visit of a decode: as many as are quick.
_MOST_TIMES, _ENOUGH_S = 8, 0.05
# Building a graph takes milliseconds.
_SLOW_S = 0.5
_SEED = 0

Clock = Callable[[], float]


class Measurable(Protocol):
    """What is measured: it can be compared by its rows."""

    @property
    def num_rows(self) -> int:
        """Rows of a decode."""


MeasurableT = TypeVar("MeasurableT", bound=Measurable)


def visit(decode: Callable[[], object], undo: Callable[[], object], clock: Clock = time.perf_counter) -> list[float]:
    """Return the seconds of a decode, one at least, each undone afterwards.

    llama.cpp builds a graph for the first one, and takes that for the next ones alike; so the first one counts only
    where it takes so long that this makes no difference.
    """
    times: list[float] = []
    is_first = True
    while not times or (len(times) < _MOST_TIMES and sum(times) < _ENOUGH_S):
        started_s = clock()
        decode()
        took_s = clock() - started_s
        if not is_first or took_s > _SLOW_S:
            times.append(took_s)
        is_first = False
        undo()
    return times


def run_rounds(
    shapes: Sequence[MeasurableT],
    measure: Callable[[MeasurableT], list[float]],
    end_s: float,
    clock: Clock = time.perf_counter,
) -> None:
    """Call `measure`, which returns seconds of decodes, again and again until `end_s` by the clock.

    What would not end before is not begun, as far as that can be told from decodes of fewer rows.
    """
    known: dict[MeasurableT, float] = {}

    def fits(shape: MeasurableT) -> bool:
        return clock() + 2 * known.get(shape, _expected_s(known, shape)) <= end_s

    for shape in sorted(shapes, key=lambda shape: shape.num_rows):
        if fits(shape):
            known[shape] = min(measure(shape))
    random_order = random.Random(_SEED)
    for _ in range(_MOST_ROUNDS):
        for shape in random_order.sample(list(known), len(known)):
            if fits(shape):
                measure(shape)


def _expected_s(known: dict[MeasurableT, float], shape: MeasurableT) -> float:
    """Return what a decode takes at most by the dearest row of those with the most rows; 0 while nothing is known."""
    most = max((each.num_rows for each in known), default=0)
    return max((known[each] * shape.num_rows / most for each in known if each.num_rows == most), default=0.0)
