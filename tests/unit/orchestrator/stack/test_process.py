"""Server processes: what becomes of them when they end, and what they say. The servers are small programs."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from orchestrator.stack import process
from orchestrator.stack.process import CrashedError, RefusedError, ServerProcess
from services.frame.program.startup import StartupError
from tests.waiting import PATIENCE_S, soon

# What every one of them begins with; `runs` counts how often it was started.
BEGIN = """
import os, pathlib, signal, sys, time

record = pathlib.Path(__file__).with_suffix(".runs")
runs = len(record.read_text().splitlines()) if record.exists() else 0
with record.open("a") as file:
    print(*sys.argv[1:], file=file)

def listen():
    print("listening on 127.0.0.1:4711", flush=True)

def serve():
    listen()
    print("serving on 127.0.0.1:4711", flush=True)

def wait():
    while sys.stdin.read(4096):
        pass
"""

Program = Callable[[str], ServerProcess]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_FIRST_RESTART_S", 0.001)


@pytest.fixture
async def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Program]:
    """Make a server of a few lines of Python."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made: list[ServerProcess] = []

    def make(code: str) -> ServerProcess:
        (tmp_path / "small.py").write_text(BEGIN + code)
        made.append(ServerProcess("small", ("--flag", "value")))
        return made[-1]

    yield make
    for each in made:
        await each.stop()


def runs(folder: Path) -> list[str]:
    """The arguments of each run so far."""
    return (folder / "small.runs").read_text().splitlines()


async def keep(server: ServerProcess) -> None:
    """Start a server and keep it running until that is given up."""
    async with asyncio.timeout(PATIENCE_S):
        await server.start()
        await server.keep()


@pytest.mark.parametrize("first", ["", "listen()"], ids=["before it listens", "while it loads"])
@pytest.mark.parametrize(
    ("end", "expected"),
    [
        pytest.param("sys.exit('small: the disk is gone')", "code 1 before it served; its last line", id="exit code"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", "code -9 (Killed) before it served, without a", id="kill"),
        pytest.param("print('bad tensor', file=sys.stderr); os.abort()", "code -6 (Aborted) before", id="abort"),
        pytest.param("sys.exit(0)", "code 0 before it served", id="success"),
    ],
)
async def test_what_ends_twice_alike_before_it_serves_is_given_up(
    program: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str, end: str, expected: str
) -> None:
    with pytest.raises(CrashedError) as given_up:
        await keep(program(f"{first}\n{end}"))
    sentence = str(given_up.value)
    assert sentence.startswith(f"outrider-small ended twice with {expected}")
    assert len(runs(tmp_path)) == 2
    said = capsys.readouterr().err.splitlines()
    if said:
        assert len(said) == 2, "what it says is to be seen, of both runs"
        assert sentence.endswith(f"; its last line: {said[-1]}")


async def test_what_a_library_says_in_it_is_obeyed_by_no_terminal(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CrashedError) as given_up:
        await keep(program("print('bad tensor \\x1b[2J\\x9b', file=sys.stderr); sys.exit(1)"))
    assert capsys.readouterr().err.splitlines() == ["bad tensor \\x1b[2J\\x9b"] * 2
    assert str(given_up.value).endswith("; its last line: bad tensor \\x1b[2J\\x9b")


async def test_what_ends_in_another_way_has_another_chance(program: Program, tmp_path: Path) -> None:
    server = program("if runs < 3: sys.exit(3 + runs)\nserve()\nwait()")
    keeping = asyncio.create_task(keep(server))
    await asyncio.wait_for(server.serving.wait(), PATIENCE_S)
    assert len(runs(tmp_path)) == 4
    keeping.cancel()
    await asyncio.wait({keeping})


async def test_what_has_served_is_started_again_however_often_it_dies(
    program: Program, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = program("if runs == 0: serve()\nelse: listen()\nif runs < 5: os.abort()\nserve()\nwait()")
    keeping = asyncio.create_task(keep(server))
    await asyncio.wait_for(server.serving.wait(), PATIENCE_S)
    await soon(lambda: len(runs(tmp_path)) == 6)
    await asyncio.wait_for(server.serving.wait(), PATIENCE_S)
    keeping.cancel()
    await asyncio.wait({keeping})
    pauses = [message.rpartition(" in ")[2] for message in caplog.messages]
    assert pauses == ["0.001 s", "0.002 s", "0.004 s", "0.008 s", "0.016 s"]
    assert caplog.messages[0].startswith("outrider-small ended with code -6 (Aborted), starting it again")
    # The port stays the same.
    assert [line.split()[:5] for line in runs(tmp_path)[1:]] == 5 * [
        ["--stop-with-stdin", "--host", "127.0.0.1", "--port", "4711"]
    ]


async def test_an_end_counts_once_whoever_keeps_the_process(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "_FIRST_RESTART_S", 0.5)
    server = program("listen()\nif runs == 0: sys.exit(1)\nserve()\nwait()")
    await server.start()
    keeping = asyncio.create_task(server.keep())
    await soon(lambda: caplog.messages)
    keeping.cancel()
    await asyncio.wait({keeping})
    keeping = asyncio.create_task(server.keep())
    await asyncio.wait_for(server.serving.wait(), PATIENCE_S)
    assert len(runs(tmp_path)) == 2
    assert len(caplog.messages) == 1
    keeping.cancel()
    await asyncio.wait({keeping})


@pytest.mark.parametrize("first", ["", "listen()", "serve()"])
async def test_what_refuses_is_not_started_again(program: Program, tmp_path: Path, first: str) -> None:
    with pytest.raises(RefusedError):
        await keep(program(f"{first}\nsys.exit(2)"))
    assert len(runs(tmp_path)) == 1


async def test_it_serves_once_it_says_so_and_no_longer_when_it_is_gone(program: Program) -> None:
    server = program("serve()\nprint('some other line', flush=True)\nwait()\n")
    assert await server.start() == "127.0.0.1:4711"
    await asyncio.wait_for(server.serving.wait(), PATIENCE_S)
    keeping = asyncio.create_task(server.keep())
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await soon(lambda: not server.serving.is_set())
    await asyncio.wait_for(server.serving.wait(), PATIENCE_S)
    assert server.pid != pid
    keeping.cancel()
    await asyncio.wait({keeping})


async def test_lines_of_any_length_and_bytes_are_passed_on(
    program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody reads a process that may not write, and it would wait for ever."""
    code = "sys.stderr.buffer.write(b'x' * 1_000_000 + b'\\n\\xff\\n\\nlast'); sys.stderr.flush(); sys.exit(2)"
    with pytest.raises(RefusedError):
        await keep(program(code))
    assert capsys.readouterr().err == "x" * 1_000_000 + "\n\N{REPLACEMENT CHARACTER}\n\nlast\n"


async def test_a_process_may_take_as_long_to_stop_as_it_says(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[asyncio.Timeout] = []
    timeout = asyncio.timeout

    def recorded(delay_s: float | None) -> asyncio.Timeout:
        limits.append(timeout(delay_s))
        return limits[-1]

    code = """
def stop(*_):
    # No print, which may have been interrupted by the signal.
    os.write(1, b"stopping, at most 3600 s for calls under way\\n")

signal.signal(signal.SIGTERM, stop)
serve()
wait()
"""
    server = program(code)
    await server.start()
    monkeypatch.setattr(asyncio, "timeout", recorded)
    stopping = asyncio.create_task(server.stop())
    await soon(lambda: max(limit.when() or 0 for limit in limits) > asyncio.get_running_loop().time() + 3000)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await stopping


@pytest.mark.parametrize("says", ["None", "os.write(1, b'stopping, at most 0 s for calls under way\\n')"])
async def test_a_process_that_does_not_stop_is_killed(
    program: Program, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, says: str
) -> None:
    monkeypatch.setattr(process, "_STOP_TIMEOUT_S", 0.05)
    server = program(f"signal.signal(signal.SIGTERM, lambda *_: {says})\nserve()\nwait()")
    await server.start()
    await server.stop()
    assert server.pid is None
    assert caplog.messages == ["outrider-small does not stop and is killed"]


async def test_a_stop_that_is_cancelled_kills(program: Program) -> None:
    server = program("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nserve()\nwait()")
    await server.start()
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(stopping, PATIENCE_S)
    assert server.pid is None


async def test_signals_of_a_terminal_do_not_reach_it(program: Program) -> None:
    """They go to the whole session, and it has one of its own."""
    server = program("serve()\nwait()")
    await server.start()
    assert server.pid is not None
    assert os.getsid(server.pid) == server.pid


async def test_what_a_server_is_at_that_has_not_told_its_address(program: Program) -> None:
    """As between its line and our taking note of it."""
    server = program("os.close(1); wait()")
    starting = asyncio.create_task(server.start())
    await soon(lambda: server._run is not None and server._run.listening.done())
    assert await server.doing(None) == "starting"
    starting.cancel()


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, ""),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine-small"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "team=x,service.name=ours"}, "ours-small"),
    ],
)
async def test_a_name_in_traces_becomes_one_of_its_own(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    server = program("(record.parent / 'name').write_text(os.environ.get('OTEL_SERVICE_NAME', ''))\nserve()\nwait()")
    await server.start()
    assert (tmp_path / "name").read_text() == name


async def test_a_system_that_does_not_let_it_start(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.touch()
    monkeypatch.setattr(process.sys, "executable", str(python))
    with pytest.raises(StartupError, match=f"^cannot start outrider-small with {python}: Permission denied$"):
        await program("serve()").start()
