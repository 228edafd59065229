"""An engine that stops: everybody is answered, and the runtime is closed."""

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest

from services.engine.errors import EngineStoppedError
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.work import Work
from tests.unit.engine.fakes import FakeRuntime, true_token
from tests.unit.engine.works import (
    PROMPT,
    Chain,
    Greedy,
    at_the_gate,
    begin,
    blocked,
    prefix,
    result,
    run,
    running,
)
from tests.waiting import PATIENCE_S, eventually, soon


async def test_stopping_answers_what_is_left() -> None:
    runtime = FakeRuntime(num_slots=1)
    engine = Engine(runtime)
    engine.start()
    async with blocked(runtime):
        tasks = await begin(engine, Chain(prefix("a", PROMPT), 30))
        await at_the_gate(runtime)
        tasks += await begin(engine, Greedy(prefix("b", [7])), Greedy(prefix("c", [8])))
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
        await soon(lambda: _is_refusing(engine))
        with pytest.raises(EngineStoppedError):
            await run(engine, Greedy(prefix("d", [9])))
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    await stopping
    assert [type(error) for error in errors] == [EngineStoppedError] * 3
    assert runtime.num_decodes == 1
    assert runtime.is_closed


async def test_work_that_comes_while_the_engine_stops_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was let in before, so that somebody must look into the inbox after it got there."""
    runtime = FakeRuntime()
    engine = Engine(runtime)
    engine.start()
    stopping = threading.Thread(target=engine.stop)
    put = engine._inbox.put

    class Inbox:
        """Lets the engine stop, as far as it can, just before work gets in."""

        def put(self, item: Any) -> None:
            if isinstance(item, Work):
                stopping.start()
                eventually(lambda: not engine._thread.is_alive() or engine._stopping.locked())
            put(item)

        def __getattr__(self, name: str) -> Any:
            return getattr(inbox, name)

    inbox = engine._inbox
    monkeypatch.setattr(engine, "_inbox", Inbox())
    with suppress(EngineStoppedError):
        assert isinstance(await result(engine, Greedy(prefix("a", PROMPT))), list)
    stopping.join(PATIENCE_S)
    assert runtime.is_closed


def _is_refusing(engine: Engine) -> bool:
    return engine._is_stopping


async def test_an_idle_engine_stops() -> None:
    runtime = FakeRuntime()
    async with running(runtime):
        pass
    assert runtime.is_closed
    assert runtime.num_decodes == 0


async def test_a_caller_whose_event_loop_is_gone_does_not_hurt() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        async with blocked(runtime):
            await asyncio.to_thread(_give_up_in_a_loop_of_its_own, engine, runtime)
        assert await result(engine, Greedy(prefix("b", [9]))) == [true_token([9])]


def _give_up_in_a_loop_of_its_own(engine: Engine, runtime: FakeRuntime) -> None:
    async def give_up() -> None:
        task = asyncio.create_task(engine.run(Greedy(prefix("a", PROMPT))))
        await at_the_gate(runtime)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(give_up())


def test_an_engine_whose_thread_could_not_start_is_stopped_like_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    runtime = FakeRuntime()
    engine = Engine(runtime)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            engine.start()
    engine.stop()
    assert runtime.is_closed
