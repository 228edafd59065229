"""Virtual time: an event loop whose clock jumps to the next thing that is due, instead of waiting for it.

What is computed takes no time at all, but for what says so (`Clock.elapse`). So a minute of serving takes a second, no
timer's grain is in the result, and two runs give the same.
"""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")
# Not zero, which stands for a time that is not known yet in several places.
_BEGIN_S = 1.0


class Clock:
    """The time of one simulation, in seconds."""

    def __init__(self) -> None:
        self.now_s = _BEGIN_S

    def read(self) -> float:
        """Return the time, as `time.perf_counter` and `time.monotonic` do."""
        return self.now_s

    def elapse(self, duration_s: float) -> None:
        """Let so much time pass at once: for everybody, or within `apart` for the caller alone."""
        self.now_s += duration_s

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Let time pass in the block for nobody else: a thread that computes while everything else goes on.

        What the block does to others has to be put off to the time at which it does it; it reads nothing that others
        may have changed since it began. Afterwards the time is what it was before.
        """
        begun_s = self.now_s
        try:
            yield
        finally:
            self.now_s = begun_s


class _Selector(selectors.SelectSelector):
    """Lets virtual time pass where an event loop would wait. Nobody outside has anything to say."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing is left that could happen")
        self._clock.elapse(max(0.0, timeout))
        return []


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        self._virtual = clock
        super().__init__(_Selector(clock))

    def time(self) -> float:
        return self._virtual.now_s


def run_virtual(main: Callable[[Clock], Coroutine[Any, Any, ResultT]]) -> ResultT:
    """Run a coroutine in virtual time and return its result.

    While it runs, `time.perf_counter` and `time.monotonic` tell virtual time to everybody in this process who asks them
    by these names: run nothing else beside it.

    Raises:
        RuntimeError: everybody waits for something that nobody does.
    """
    clock = Clock()

    async def run() -> ResultT:
        return await main(clock)

    with _time_from(clock), asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
        return runner.run(run())


@contextmanager
def _time_from(clock: Clock) -> Iterator[None]:
    perf_counter, monotonic = time.perf_counter, time.monotonic
    time.perf_counter = time.monotonic = clock.read
    try:
        yield
    finally:
        time.perf_counter, time.monotonic = perf_counter, monotonic
