"""Virtual time."""

import asyncio
import time

import pytest

from orchestrator.simulation.clock import Clock, run_virtual


def test_an_hour_passes_at_once_and_in_order() -> None:
    async def main(clock: Clock) -> list[tuple[str, float]]:
        begin_s = time.perf_counter()
        ended: list[tuple[str, float]] = []

        async def sleep(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            ended.append((name, time.perf_counter() - begin_s))

        await asyncio.gather(sleep("long", 3600), sleep("short", 0.0005))
        assert time.monotonic() == clock.read() == asyncio.get_running_loop().time()
        return ended

    assert run_virtual(main) == [("short", pytest.approx(0.0005)), ("long", pytest.approx(3600))]


def test_time_that_passes_apart_passes_for_nobody_else() -> None:
    async def main(clock: Clock) -> tuple[float, float]:
        begin_s = clock.read()
        with clock.apart():
            clock.elapse(2.0)
            inside_s = time.perf_counter() - begin_s
        return inside_s, time.perf_counter() - begin_s

    assert run_virtual(main) == (2.0, 0.0)


def test_a_limit_is_reached_in_virtual_time() -> None:
    async def main(clock: Clock) -> None:
        async with asyncio.timeout(60):
            await asyncio.sleep(61)

    with pytest.raises(TimeoutError):
        run_virtual(main)


def test_who_waits_for_nobody_is_told_so() -> None:
    async def main(clock: Clock) -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="everybody waits"):
        run_virtual(main)


def test_real_time_is_back_afterwards() -> None:
    before = time.perf_counter, time.monotonic

    async def main(clock: Clock) -> None:
        assert time.perf_counter == clock.read

    run_virtual(main)
    assert (time.perf_counter, time.monotonic) == before
