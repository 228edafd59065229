"""The engine in virtual time: what a decode holds up, and what goes on beside it."""

import asyncio
from collections.abc import Sequence

import pytest

from orchestrator.simulation.clock import Clock, run_virtual
from orchestrator.simulation.engine import ClockEngine, ClockRuntime
from orchestrator.simulation.scenario import LinearCosts
from services.engine.errors import WorkTimeoutError
from services.engine.runtime.interface import Logits
from services.engine.scheduling.scheduler import Decode
from services.engine.scheduling.work import Prefix, Work

_DECODE_S = 0.1


class Counting(Work[int]):
    """Asks for so many decodes, one after the other, and finishes with that number."""

    def __init__(self, session_id: str, num_decodes: int = 1, deadline_s: float | None = None) -> None:
        super().__init__(Prefix(session_id, 0, b"", [1]), deadline_s=deadline_s)
        self._num_decodes = num_decodes
        self._num_seen = 0

    def next_step(self, logits: Logits, held: Sequence[int]) -> Sequence[int]:
        self._num_seen += 1
        return [1] if self._num_seen < self._num_decodes else self.finish(self._num_seen, len(held))


def engine_of(clock: Clock, decodes: list[Decode], max_sessions: int | None = None) -> ClockEngine:
    runtime = ClockRuntime(LinearCosts(1e3 * _DECODE_S, 0.0), clock.elapse, 4, max_sessions)
    return ClockEngine(clock, runtime, decodes.append)


def test_a_decode_takes_time_and_others_go_on_meanwhile() -> None:
    async def main(clock: Clock) -> list[tuple[str, float]]:
        begin_s = clock.read()
        engine = engine_of(clock, [])
        ended: list[tuple[str, float]] = []

        async def other() -> None:
            await asyncio.sleep(_DECODE_S / 2)
            ended.append(("other", round(clock.read() - begin_s, 4)))

        async def work() -> None:
            await engine.run(Counting("a", 3))
            ended.append(("work", round(clock.read() - begin_s, 4)))

        await asyncio.gather(work(), other())
        engine.stop()
        return ended

    assert run_virtual(main) == [("other", 0.05), ("work", 0.3)]


def test_who_comes_during_a_decode_joins_the_next_one() -> None:
    async def main(clock: Clock) -> list[list[str]]:
        decodes: list[Decode] = []
        engine = engine_of(clock, decodes)

        async def late() -> None:
            await asyncio.sleep(1.5 * _DECODE_S)
            await engine.run(Counting("b", 2))

        await asyncio.gather(engine.run(Counting("a", 4)), late())
        engine.stop()
        return [sorted(name for name, _ in decode.sessions) for decode in decodes]

    assert run_virtual(main) == [["a"], ["a"], ["a", "b"], ["a", "b"]]


def test_who_comes_in_the_same_moment_is_in_the_same_decode() -> None:
    async def main(clock: Clock) -> int:
        decodes: list[Decode] = []
        engine = engine_of(clock, decodes)
        await asyncio.gather(*(engine.run(Counting(name)) for name in "abcd"))
        engine.stop()
        return len(decodes)

    assert run_virtual(main) == 1


def test_a_decode_has_no_more_sessions_than_it_may() -> None:
    async def main(clock: Clock) -> tuple[list[int], float]:
        decodes: list[Decode] = []
        engine = engine_of(clock, decodes, max_sessions=3)
        begin_s = clock.read()
        await asyncio.gather(*(engine.run(Counting(name)) for name in "abcd"))
        engine.stop()
        return [len(decode.sessions) for decode in decodes], round(clock.read() - begin_s, 4)

    assert run_virtual(main) == ([3, 1], 0.2)


def test_work_whose_deadline_has_passed_is_refused() -> None:
    async def main(clock: Clock) -> None:
        engine = engine_of(clock, [])
        with pytest.raises(WorkTimeoutError):
            await engine.run(Counting("a", 5, deadline_s=clock.read() + 2.5 * _DECODE_S))
        engine.stop()

    run_virtual(main)


def test_timings_are_of_virtual_time() -> None:
    async def main(clock: Clock) -> Counting:
        engine = engine_of(clock, [])
        work = Counting("a", 2)
        await engine.run(work)
        engine.stop()
        return work

    timings = run_virtual(main).timings
    assert timings.decode_s == pytest.approx(2 * _DECODE_S)
    assert timings.finished_s - timings.submitted_s == pytest.approx(2 * _DECODE_S, abs=1e-5)
