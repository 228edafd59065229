"""Processes that decode on the same cores take turns, and nobody waits for one that has stopped."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.engine.scheduling.turns import Turns, turns_of
from tests.unit.engine.fakes import FakeRuntime, true_text, true_token
from tests.unit.engine.works import Chain, Greedy, at_the_gate, blocked, prefix, running
from tests.waiting import PATIENCE_S


class Waiting:
    """Counts what is waited for, and does something at the n-th wait."""

    def __init__(self, at: int = 0, do: Callable[[], object] = lambda: None) -> None:
        self.num = 0
        self._at, self._do = at, do

    def __call__(self, seconds: float) -> None:
        self.num += 1
        if self.num == self._at:
            self._do()


def _can_begin(turns: Turns) -> bool:
    """Whether it is this one's turn at once."""
    assert turns._turn is not None
    return turns._turn.take()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cores.lock"


def test_one_waits_while_the_other_decodes(path: Path) -> None:
    target = Turns(path)
    waiting = Waiting(at=5, do=target.end)
    draft = Turns(path, waiting)
    target.begin(100.0)
    draft.begin(0.005)
    assert waiting.num == 5
    waits_for_draft = Waiting(at=3, do=draft.end)
    Turns(path, waits_for_draft).begin(0.1)
    assert waits_for_draft.num == 3


def test_who_waits_has_its_turn_before_another_one_of_the_same(path: Path) -> None:
    """Else the quickest has it, and that is who has just let it go."""
    order: list[str] = []
    draft_waits, target_waits = threading.Event(), threading.Event()
    target = Turns(path, lambda seconds: (target_waits.set(), time.sleep(seconds)))
    draft = Turns(path, lambda seconds: (draft_waits.set(), time.sleep(seconds)))

    def propose() -> None:
        draft.begin(100.0)
        order.append("draft")
        assert target_waits.wait(PATIENCE_S)
        draft.end()

    target.begin(100.0)
    thread = threading.Thread(target=propose)
    thread.start()
    assert draft_waits.wait(PATIENCE_S)
    target.end()
    assert target.begin(100.0)
    order.append("target")
    thread.join()
    assert order == ["draft", "target"]


def test_one_that_is_next_and_has_stopped_costs_one_short_wait(path: Path) -> None:
    stopped = Turns(path)
    assert stopped._next is not None
    assert stopped._next.take()
    waiting = Waiting()
    turns = Turns(path, waiting)
    for num_waits in (66, 66, 66):
        turns.begin(100.0)
        assert waiting.num == num_waits
        turns.end()
    stopped._next.give_back()
    turns.begin(100.0)
    turns.end()
    assert stopped._next.take()
    turns.begin(100.0)
    assert waiting.num == 2 * 66


def test_who_has_the_turn_goes_on(path: Path) -> None:
    waiting = Waiting()
    turns = Turns(path, waiting)
    turns.begin(100.0)
    turns.begin(100.0)
    assert waiting.num == 0


def test_nobody_waits_for_one_that_holds_on_for_longer_than_it_said(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    monkeypatch.setattr("services.engine.scheduling.turns.time.monotonic", lambda: now_s)

    def pass_time(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    Turns(path).begin(0.1)
    waiter = Turns(path, pass_time)
    waiter.begin(0.1)
    waited_s = now_s - 1000.0
    assert 0.3 <= waited_s < 0.4
    # It has not the turn, and does not give another one's away. Nor does it wait so long for the same one again.
    waiter.end()
    waiter.begin(0.1)
    assert now_s - 1000.0 - waited_s < 0.001
    assert _can_begin(Turns(path)) is False


def test_one_whose_time_is_not_known_is_waited_for_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("services.engine.scheduling.turns.time.monotonic", lambda: now_s)

    def pass_time(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    Turns(path).begin(0.0)
    Turns(path, pass_time).begin(0.1)
    assert 1.0 <= now_s - 1000.0 < 1.1


def test_one_that_has_ended_is_not_waited_for(path: Path) -> None:
    if not (pid := os.fork()):
        Turns(path).begin(100.0)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    waiting = Waiting()
    Turns(path, waiting).begin(0.1)
    assert waiting.num == 0


def test_closed_turns_are_over(path: Path) -> None:
    turns = Turns(path)
    turns.begin(100.0)
    turns.close()
    turns.begin(100.0)
    waiting = Waiting()
    Turns(path, waiting).begin(0.1)
    assert waiting.num == 0


def test_one_file_for_all_processes_of_a_user_on_the_same_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.engine.scheduling.turns.tempfile.gettempdir", lambda: str(tmp_path))
    cores = {0, 1, 2, 3}
    monkeypatch.setattr("services.engine.scheduling.turns.os.sched_getaffinity", lambda _: cores)
    first, waiting = turns_of("auto", 3), Waiting()
    first.begin(0.1)
    second = turns_of("auto", 4)
    assert not _can_begin(second)
    # Two threads of four leave room for another's two.
    small = turns_of("auto", 2)
    small._sleep = waiting
    small.begin(0.1)
    assert waiting.num == 0
    cores = {4, 5, 6, 7}
    assert _can_begin(turns_of("auto", 4))
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len([file for file in folder.iterdir() if file.suffix == ".lock"]) == 2


@pytest.mark.parametrize("kind", ["file", "link", "folder that is missing"])
def test_without_a_lock_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    temporary = tmp_path / "temporary"
    folder = temporary / f"outrider-{os.getuid()}"
    monkeypatch.setattr("services.engine.scheduling.turns.tempfile.gettempdir", lambda: str(temporary))
    if kind != "folder that is missing":
        temporary.mkdir()
    if kind == "file":
        folder.write_text("")
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    turns = turns_of("auto", 1024)
    turns.begin(0.1)
    assert "--core-lock" in caplog.text


def test_off_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.engine.scheduling.turns.tempfile.gettempdir", lambda: str(tmp_path))
    turns_of("off", 1024).begin(0.1)
    assert not list(tmp_path.iterdir())


def _is_free(path: Path) -> bool:
    turns = Turns(path)
    is_free = _can_begin(turns)
    turns.close()
    return is_free


async def test_an_engine_decodes_when_it_is_its_turn_and_gives_it_back(path: Path) -> None:
    runtime = FakeRuntime()
    async with running(runtime, turns=Turns(path)) as engine:
        async with blocked(runtime):
            asking = asyncio.create_task(engine.run(Greedy(prefix("a", [1, 2]))))
            await at_the_gate(runtime)
            assert not _is_free(path)
        assert await asking == [true_token([1, 2])]
        assert await engine.run(Chain(prefix("b", [3]), 4)) == true_text([3], 4)
    assert _is_free(path)


async def test_what_comes_while_an_engine_waits_joins_its_decode(path: Path) -> None:
    other, runtime = Turns(path), FakeRuntime()
    is_waiting, may_go_on = threading.Event(), threading.Event()

    def wait(seconds: float) -> None:
        is_waiting.set()
        may_go_on.wait(30)

    other.begin(100.0)
    async with running(runtime, turns=Turns(path, wait)) as engine:
        first = asyncio.create_task(engine.run(Greedy(prefix("a", [1]))))
        await asyncio.to_thread(is_waiting.wait, 30)
        second = asyncio.create_task(engine.run(Greedy(prefix("b", [2]))))
        await asyncio.sleep(0)
        other.end()
        may_go_on.set()
        assert [await first, await second] == [[true_token([1])], [true_token([2])]]
    assert [len(batch) for batch in runtime.batches] == [2]
