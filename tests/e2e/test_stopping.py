"""How commands end: by signals, by the deaths of their processes, and by their own death."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from outrider.v1 import generation_pb2
from services.frame.rpc.channel import open_channel
from services.frame.rpc.health import watch_health
from tests.e2e import accidents
from tests.e2e.conftest import Pair
from tests.e2e.programs import MODULES, Serving, command, environment, lives, run, services_of, serving
from tests.integration.services import Client, Generated, generate_request
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.e2e

# Long enough not to be over before a signal arrives.
NUM_TOKENS = 600
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -signal.SIGKILL}
# Longer than what is under way takes.
PATIENT = {f"OUTRIDER_{name.upper()}_DRAIN_TIMEOUT_S": "120" for name in MODULES}


def gone(services: dict[str, psutil.Process]) -> bool:
    return not any(lives(service) for service in services.values())


async def generate(system: Serving, accident: Callable[[], object]) -> Generated:
    """An answer; the accident happens when its first chunk is here."""
    generated = Generated()
    async with grpc.aio.insecure_channel(system.address) as channel:
        request = generate_request(max_tokens=NUM_TOKENS)
        async for message in Client(channel).stub.Generate(request, timeout=2 * PATIENCE_S):
            if message.HasField("chunk"):
                if not generated.chunks:
                    accident()
                generated.chunks.append(message.chunk)
            else:
                generated.summary = message.summary
    return generated


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_what_is_under_way_ends_before_the_processes_do(pair: Pair, home: Path, number: signal.Signals) -> None:
    """The signal goes to the whole process group, as that of a terminal."""
    with serving(home, *pair.flags, **PATIENT) as system:
        services = system.services()
        assert set(services) == set(MODULES)
        generated = await generate(system, lambda: os.killpg(system.process.pid, number))
        assert len(generated.ids) == NUM_TOKENS
        assert generated.summary.finish_reason == generation_pb2.FINISH_REASON_MAX_TOKENS
        assert await asyncio.to_thread(system.process.wait, PATIENCE_S) == CODES[number]
        assert gone(services), "none outlives the one that started it"


async def test_a_second_signal_hurries(pair: Pair, home: Path) -> None:
    with serving(home, *pair.flags, **PATIENT) as system:
        services = system.services()

        async def hurry() -> None:
            """Once the first signal is heeded."""
            async with open_channel(system.address) as channel:
                async for is_serving in watch_health(channel, ""):
                    if is_serving:
                        system.process.send_signal(signal.SIGTERM)
            system.process.send_signal(signal.SIGTERM)

        hurrying: list[asyncio.Task[None]] = []
        with pytest.raises(grpc.aio.AioRpcError):
            await generate(system, lambda: hurrying.append(asyncio.create_task(hurry())))
        assert await asyncio.to_thread(system.process.wait, PATIENCE_S) == 143
        assert gone(services)


def test_no_process_outlives_one_that_is_killed(pair: Pair, home: Path) -> None:
    with serving(home, *pair.flags) as system:
        services = system.services()
        system.process.kill()
        eventually(lambda: gone(services))


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `outrider` in a process group of its own; end what is left of it after the test."""
    processes: list[subprocess.Popen[str]] = []

    def begin(home: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            arguments if "/" in arguments[0] else command(*arguments),
            env=environment(home) | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=PATIENCE_S)


def until_said(process: "subprocess.Popen[str]", text: str) -> str:
    """Return the line of stderr that has a text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"it ended and did not say {text!r}")


LOADING = (accidents.LOAD_SLOWLY, "(loading target.gguf (")
PROBING = (accidents.PROBE_FOR_EVER, "(probing target.gguf for exactness)")


@pytest.mark.parametrize(
    ("accident", "said", "number"),
    [
        pytest.param(*LOADING, signal.SIGINT, id="loading, SIGINT"),
        pytest.param(*LOADING, signal.SIGKILL, id="loading, SIGKILL"),
        pytest.param(*PROBING, signal.SIGTERM, id="probing, SIGTERM"),
        pytest.param(*PROBING, signal.SIGKILL, id="probing, SIGKILL"),
    ],
)
def test_a_signal_while_the_models_are_made_ready(
    start: Start, tmp_path: Path, accident: str, said: str, number: signal.Signals
) -> None:
    """What they are waited for is said on the way."""
    variables = accidents.cause(tmp_path / "accident", accident)
    process = start(tmp_path, "generate", "--exact", "on", "a", **variables)
    assert until_said(process, said).startswith("outrider: waiting for outrider-target (")
    eventually(lambda: set(services_of(process.pid)) == set(MODULES))
    services = services_of(process.pid)
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == CODES[number]
    eventually(lambda: gone(services))
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read() == ""
    assert "Traceback" not in process.stderr.read()


def test_a_parent_that_is_killed_when_its_first_process_has_hardly_begun(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path, "generate", "--exact", "off", "a")
    eventually(lambda: services_of(process.pid))
    services = services_of(process.pid)
    process.kill()
    eventually(lambda: gone(services))


def test_an_orchestrator_that_is_lost_while_the_models_load(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "accident"
    variables = accidents.cause(folder, accidents.LOAD_SLOWLY)
    process = start(tmp_path, "generate", "--exact", "off", "--max-tokens", "4", "def main(", **variables)
    until_said(process, "(loading target.gguf (")
    eventually(lambda: "orchestrator" in services_of(process.pid))
    services_of(process.pid)["orchestrator"].kill()
    until_said(process, "outrider-orchestrator ended with code -9 (Killed), starting it again")
    accidents.open_gate(folder)
    output, errors = process.communicate(timeout=2 * PATIENCE_S)
    assert process.returncode == 0, errors
    assert output.startswith("def main(")
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("accident", "said", "arguments"),
    [
        pytest.param(accidents.CRASH_AT_ONCE, "no such instruction", ("generate", "a"), id="at once"),
        pytest.param(
            accidents.CRASH_WHILE_LOADING, "a bad tensor", ("serve", "--port", "0", "--http", ""), id="loading"
        ),
    ],
)
def test_a_target_that_crashes_before_it_serves(
    tmp_path: Path, accident: str, said: str, arguments: tuple[str, ...]
) -> None:
    finished = run(tmp_path, *arguments, "--exact", "off", **accidents.cause(tmp_path / "accident", accident))
    sentence = f"outrider: outrider-target ended twice with code -6 (Aborted) before it served; its last line: {said}"
    assert (finished.returncode, finished.stdout) == (1, "")
    lines = finished.stderr.splitlines()
    assert lines[-1] == sentence
    assert lines.count(said) == 2
    assert "Traceback" not in finished.stderr


@pytest.fixture
def as_process_1(tmp_path: Path) -> list[str]:
    """A command that runs another one as process 1 of a namespace, as containers do."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not at hand")
    isolated = [unshare, "--pid", "--fork", "--mount-proc"]
    tried = subprocess.run([*isolated, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no namespace can be made here: {tried.stderr.strip()}")
    return isolated


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_as_process_1_of_a_container(
    start: Start, as_process_1: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    variables = accidents.cause(tmp_path / "accident", accidents.LOAD_SLOWLY)
    arguments = command("serve", "--port", "0", "--http", "", "--exact", "off", "--log-level", "warning")
    process = start(tmp_path, *as_process_1, *arguments, **variables)
    until_said(process, "(loading target.gguf (")
    (first,) = psutil.Process(process.pid).children()
    first.send_signal(number)
    assert process.wait(PATIENCE_S) == CODES[number]


# A signal as soon as gRPC is imported.
INTERRUPTED = """
import os, sys

class Finder:
    def find_spec(self, name, *_):
        if name == "grpc":
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Finder())
"""


def interrupted(folder: Path, number: signal.Signals) -> str:
    """The path of Python modules with which a program gets a signal while it is imported."""
    (folder / "sitecustomize.py").write_text(INTERRUPTED.format(number=int(number)))
    return os.pathsep.join((str(folder), environment(folder)["PYTHONPATH"]))


@pytest.mark.parametrize("module", ["orchestrator.cli", *MODULES.values(), "services.frame.healthcheck"])
def test_ctrl_c_before_a_program_has_begun(tmp_path: Path, module: str) -> None:
    finished = run(tmp_path, "--help", module=module, PYTHONPATH=interrupted(tmp_path, signal.SIGINT))
    assert (finished.returncode, finished.stdout, finished.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("module", ["orchestrator.cli", *MODULES.values()])
def test_a_signal_before_process_1_has_begun(
    as_process_1: list[str], tmp_path: Path, module: str, number: signal.Signals
) -> None:
    variables = environment(tmp_path) | {"PYTHONPATH": interrupted(tmp_path, number)}
    finished = subprocess.run(
        [*as_process_1, *command("--help", module=module)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (CODES[number], "", "")
