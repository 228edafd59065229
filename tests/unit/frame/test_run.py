"""The life of a server process, in real processes."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.frame.server import FrameServer

# How it starts, and what it then does, is told by the first argument.
PROGRAM = """
import asyncio, sys
from services.frame.run import run_server
from services.frame.program.settings import ServerSettings, parse_settings
from services.frame.program.startup import StartupError

class Application:
    service_names = ("test.Echo",)

    async def start(self, server):
        match mode:
            case "loading":
                print("loading", flush=True)
                await asyncio.Event().wait()
            case "refusing":
                raise StartupError("the model is missing")
            case "failing":
                asyncio.get_running_loop().call_soon(server.fail, "the device is gone")
            case "no thread":
                raise RuntimeError("can't start new thread")
            case "no memory":
                raise MemoryError
            case "broken":
                raise RuntimeError("a defect")

    async def stop(self):
        if mode == "stuck":
            print("still at it", flush=True)
            await asyncio.Event().wait()
        print("stopped", flush=True)

mode = sys.argv.pop(1)
sys.exit(run_server(parse_settings(ServerSettings), Application(), "outrider-test"))
"""

STOPPING = "stopping, at most 10 s for calls under way\n"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the program, and kill what is left of it after the test."""
    processes: list[subprocess.Popen[str]] = []

    def begin(mode: str, *argv: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM, mode, *argv],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end of a process; return exit code, stdout and stderr."""
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def listening_port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    match = re.fullmatch(r"listening on 127\.0\.0\.1:(\d+)\n", process.stdout.readline())
    assert match is not None
    return int(match[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_server_tells_its_port_serves_and_ends_gracefully(start: Start, number: int) -> None:
    process = start("serving")
    port = listening_port(process)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service="test.Echo")
        watch = iter(health_pb2_grpc.HealthStub(channel).Watch(request))
        while next(watch).status != health_pb2.HealthCheckResponse.SERVING:
            pass
        assert process.stdout is not None
        assert process.stdout.readline() == f"serving on 127.0.0.1:{port}\n"
        process.send_signal(number)
        code, output, errors = end(process)
    assert (code, output) == (0, f"{STOPPING}stopped\n")
    assert "Traceback" not in errors


def test_a_signal_ends_a_server_that_is_still_loading(start: Start) -> None:
    process = start("loading")
    listening_port(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGTERM)
    code, output, errors = end(process)
    assert (code, output) == (0, f"{STOPPING}stopped\n")
    assert "Traceback" not in errors


async def test_a_busy_port_is_one_sentence_and_code_2(start: Start, serve: Callable[..., object]) -> None:
    server: FrameServer = await serve()
    code, output, errors = end(start("serving", "--port", str(server.port)))
    sentence = f"cannot listen on 127.0.0.1:{server.port} (Address already in use): choose another --host or --port"
    assert (code, output, errors) == (2, "", f"outrider: {sentence}\n")


@pytest.mark.parametrize("stdin", [os.devnull, __file__])
def test_a_stdin_that_cannot_be_waited_for_is_one_sentence_and_code_2(stdin: str) -> None:
    with open(stdin, "rb") as file:
        finished = subprocess.run(
            [sys.executable, "-c", PROGRAM, "serving", "--stop-with-stdin"],
            stdin=file,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == (
        "outrider: --stop-with-stdin waits for the end of stdin, which is a file or /dev/null: "
        "give it a pipe or a terminal\n"
    )


@pytest.mark.parametrize(("mode", "told"), [("no thread", "can't start new thread"), ("no memory", "out of memory")])
def test_a_system_that_gives_no_more_is_one_sentence_and_code_2(start: Start, mode: str, told: str) -> None:
    code, _, errors = end(start(mode))
    sentence = f"the system gives no more memory ({told}): raise ulimit -v and -u, or the container's limits"
    assert (code, errors) == (2, f"outrider: {sentence}\n")


def test_a_wrong_flag_is_one_sentence_and_code_2(start: Start) -> None:
    code, output, errors = end(start("serving", "--prot", "1"))
    assert (code, output) == (2, "")
    assert errors == "outrider: unrecognized arguments: --prot 1; --help lists the flags\n"


def test_an_unsupported_exporter_is_one_sentence_and_code_2(start: Start) -> None:
    code, output, errors = end(start("serving", OTEL_TRACES_EXPORTER="zipkin"))
    assert (code, output) == (2, "")
    assert errors == "outrider: OTEL_TRACES_EXPORTER names 'zipkin': only otlp, console, none are supported\n"


def test_an_application_that_refuses_to_start_is_one_sentence_and_code_2(start: Start) -> None:
    code, output, errors = end(start("refusing"))
    assert (code, errors) == (2, "outrider: the model is missing\n")
    assert output.endswith("stopped\n")


def test_an_application_that_gives_up_ends_with_its_sentence_and_code_1(start: Start) -> None:
    code, output, errors = end(start("failing"))
    assert code == 1
    assert errors.endswith("outrider: the device is gone\n")
    assert output.endswith("stopped\n")


def test_a_defect_shows_its_traceback(start: Start) -> None:
    code, output, errors = end(start("broken"))
    assert code == 1
    assert "RuntimeError: a defect" in errors
    assert output.endswith("stopped\n")


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    process = start("stuck")
    listening_port(process)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("serving on ")
    process.send_signal(signal.SIGTERM)
    assert [process.stdout.readline() for _ in range(2)] == [STOPPING, "still at it\n"]
    process.send_signal(signal.SIGTERM)
    assert end(process)[0] == -signal.SIGTERM
