"""What a terminal, an odd encoding or a full disk gets of a peer that says whatever it likes."""

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest

from outrider.v1 import generation_pb2, generation_pb2_grpc
from services.frame.rpc.handlers import RpcContext
from tests.e2e.programs import command, environment, run, run_in_terminal
from tests.e2e.wild import ACTING, HARMLESS, NAME_SHOWN, SHOWN, TOKENS
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e

FULL = "/dev/full"
needs_full = pytest.mark.skipif(not Path(FULL).exists(), reason="there is no /dev/full")

STYLE = re.compile(r"\x1b\[[\d;]*m")


async def test_a_terminal_is_not_at_the_mercy_of_the_model(wild: str, home: Path) -> None:
    asked = command("generate", "--address", wild, "\x1b]0;title\x07")
    finished = await asyncio.to_thread(run_in_terminal, home, asked)
    assert finished.returncode == 0
    assert "\x1b[1m" in finished.stdout, "the prompt is bold"
    assert STYLE.sub("", finished.stdout) == "\\x1b]0;title\\x07" + SHOWN + "".join(HARMLESS) + "\n"


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"NO_COLOR": "1"}, {"FORCE_COLOR": ""}], ids=str)
async def test_a_terminal_without_colours(wild: str, home: Path, variables: dict[str, str]) -> None:
    asked = command("generate", "--address", wild, "p")
    finished = await asyncio.to_thread(lambda: run_in_terminal(home, asked, **variables))
    assert finished.returncode == 0
    assert not re.search(r"\x1b\[[\d;]*3\d", finished.stdout)
    assert STYLE.sub("", finished.stdout) == "p" + SHOWN + "".join(HARMLESS) + "\n"
    assert "recovered" not in finished.stderr, "there is no colour to explain"


async def test_a_pipe_gets_every_byte(wild: str, home: Path) -> None:
    finished = await asyncio.to_thread(run, home, "generate", "--address", wild, "p")
    assert (finished.returncode, finished.stdout) == (0, "p" + "".join(TOKENS) + "\n")


@pytest.mark.parametrize("variables", [{}, {"TERM": "dumb"}], ids=str)
async def test_the_status_in_a_terminal(wild: str, home: Path, variables: dict[str, str]) -> None:
    asked = command("status", "--address", wild)
    finished = await asyncio.to_thread(lambda: run_in_terminal(home, asked, COLUMNS="200", **variables))
    assert finished.returncode == 0
    plain = " ".join(STYLE.sub("", finished.stdout).split())
    assert f"target there:1 {NAME_SHOWN} available" in plain
    assert f"draft there:2 {NAME_SHOWN} it is away" in plain
    assert not set(ACTING) & set(plain)


async def test_a_refusal_of_a_peer_is_one_line(wild: str, home: Path) -> None:
    finished = await asyncio.to_thread(run, home, "generate", "--address", wild, "x")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == f"outrider: not {NAME_SHOWN} nor that\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize("arguments", [("generate", "prompt é日"), ("status",), ("generate", "p", "--json")], ids=str)
async def test_every_encoding_takes_everything(wild: str, home: Path, encoding: str, arguments: Sequence[str]) -> None:
    finished = await asyncio.to_thread(
        lambda: subprocess.run(
            command(*arguments, "--address", wild),
            env=environment(home) | {"PYTHONIOENCODING": encoding, "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    )
    assert (finished.returncode, b"Traceback" in finished.stderr) == (0, False)
    out = finished.stdout.decode(encoding)
    if "--json" in arguments:
        assert json.loads(out)["text"] == "".join(TOKENS)
    elif arguments[0] == "generate":
        assert "\\u65e5\\u672c\\u8a9e" in out
        assert ("\\xe9" in out) == (encoding == "ascii")
    else:
        assert NAME_SHOWN.replace("日", "\\u65e5") in out


@needs_full
@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "p", "--address"),
        ("generate", "p", "--json", "--address"),
        ("status", "--address"),
        ("status", "--json", "--address"),
    ],
    ids=lambda arguments: " ".join(arguments[:-1]),
)
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
async def test_an_answer_that_cannot_be_written(
    wild: str, home: Path, arguments: Sequence[str], redirection: str
) -> None:
    reason = {">/dev/full": "No space left on device", ">&-": "Bad file descriptor"}[redirection]
    returncode, errors = await asyncio.to_thread(_redirected, home, redirection, *arguments, wild)
    assert (returncode, errors) == (1, f"outrider: cannot write to stdout: {reason}\n")


@needs_full
@pytest.mark.parametrize(
    ("module", "program"),
    [
        ("orchestrator.cli", "outrider"),
        ("orchestrator", "outrider-orchestrator"),
        ("services.target", "outrider-target"),
        ("services.draft", "outrider-draft"),
        ("services.frame.healthcheck", "python -m services.frame.healthcheck"),
        ("models.expand", "python -m models.expand"),
        ("models.evaluate", "python -m models.evaluate"),
        ("models.train", "python -m models.train"),
    ],
)
def test_help_that_cannot_be_written(home: Path, module: str, program: str) -> None:
    expected = f"{program}: cannot write to stdout: No space left on device\n"
    assert _redirected(home, ">/dev/full", "--help", module=module) == (1, expected)


@needs_full
def test_a_server_that_cannot_tell_its_address(home: Path) -> None:
    asked = ("--target", "127.0.0.1:1", "--port", "0", "--log-level", "error")
    expected = "outrider-orchestrator: cannot write to stdout: No space left on device\n"
    assert _redirected(home, ">/dev/full", *asked, module="orchestrator") == (1, expected)


def _redirected(home: Path, redirection: str, *arguments: str, module: str = "orchestrator.cli") -> tuple[int, str]:
    """Run a program with the shell's redirection of its streams; return exit code and stderr."""
    finished = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command(*arguments, module=module)],
        env=environment(home) | {"PYTHONUNBUFFERED": ""},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=PATIENCE_S,
        check=False,
    )
    return finished.returncode, finished.stderr.decode()


async def test_a_chat_with_a_line_that_is_no_text(wild: str, home: Path) -> None:
    finished = await asyncio.to_thread(
        lambda: subprocess.run(
            command("chat", "--address", wild),
            env=environment(home) | {"PYTHONIOENCODING": "utf-8:strict"},
            input=b"\xff\n",
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    )
    assert (finished.returncode, finished.stderr) == (2, b"outrider: the prompt is not valid UTF-8\n")


class Lost(generation_pb2_grpc.GenerationServiceServicer):
    """Begins an answer and never ends it."""

    def __init__(self) -> None:
        self.has_begun = asyncio.Event()

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: RpcContext
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        yield generation_pb2.GenerateResponse(chunk=generation_pb2.GenerateChunk(text="text"))
        self.has_begun.set()
        await asyncio.Event().wait()


async def test_an_orchestrator_that_is_lost_is_one_sentence(home: Path) -> None:
    """As whoever sets no variable of gRPC's sees it."""
    servicer, server = Lost(), grpc.aio.server()
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    asked = ("generate", "--address", address, "p")
    running = asyncio.create_task(asyncio.to_thread(lambda: run(home, *asked, GRPC_VERBOSITY="")))
    await servicer.has_begun.wait()
    await server.stop(None)
    finished = await running
    assert finished.returncode == 1
    assert finished.stderr == f"outrider: the orchestrator at {address} was lost (Cancelling all calls): ask again\n"
