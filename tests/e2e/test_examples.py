"""The clients in `examples/`, as their readers run them."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from outrider.v1 import generation_pb2, generation_pb2_grpc
from services.frame.rpc.errors import ServiceError, abort
from services.frame.rpc.handlers import RpcContext
from tests.e2e.programs import ROOT, Finished, Serving, environment, run, run_in_terminal
from tests.e2e.wild import ACTING, HARMLESS, NAME_SHOWN, SHOWN, TOKENS
from tests.ports import free_port
from tests.proxy import VARIABLES, proxying
from tests.relay import relaying
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.e2e

PYTHON = (sys.executable, str(ROOT / "examples" / "python" / "generate.py"))
VERIFY = (sys.executable, str(ROOT / "examples" / "python" / "verify.py"))
OLDEST_NODE = 18
# The registry is away or does not have the packages. Anything else that npm complains of is a mistake of ours.
NO_REGISTRY = re.compile(
    r"npm (?:error|ERR!) code (E40\d|E5\d\d|ENOTFOUND|EAI_AGAIN|E[A-Z_]*(?:CONN|TIMEDOUT|TIMEOUT)\w*)"
)
PROMPT = "def main("
ASKED = ("--max-tokens", "64", "--temperature", "0.8", "--seed", "11", PROMPT)


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """The command line of the Node.js client, installed in a copy of the project's folders."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node.js with npm is not at hand")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"Node.js {version.strip()} is older than {OLDEST_NODE}")
    root = tmp_path_factory.mktemp("node")
    folder = root / "examples" / "node"
    shutil.copytree(ROOT / "examples" / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    (root / "protos").symlink_to(ROOT / "protos")
    installed = subprocess.run(
        ["npm", "install", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=8 * PATIENCE_S,
        check=False,
    )
    if found := NO_REGISTRY.search(installed.stderr):
        pytest.skip(f"npm cannot fetch packages: {found[1]}")
    assert installed.returncode == 0, installed.stderr
    assert not (folder / "package-lock.json").exists(), "it would record where the packages came from"
    return ("node", str(folder / "generate.js"))


@pytest.fixture(params=["python", "node"])
def client(request: pytest.FixtureRequest) -> Sequence[str]:
    """The command line of each client of the orchestrator."""
    command: Sequence[str] = PYTHON if request.param == "python" else request.getfixturevalue("node")
    return command


@pytest.fixture(scope="session", params=["cpp", "go"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """The command line of each client that is compiled, made with the machine's tools in a copy of its folder."""
    needed = {"cpp": ("make", "g++", "pkg-config", "protoc", "grpc_cpp_plugin")}
    needed["go"] = ("make", "go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
    for program in needed[request.param]:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if request.param == "cpp" and subprocess.run(["pkg-config", "--exists", "grpc++"], check=False).returncode:
        pytest.skip("the headers of gRPC are not installed")
    gopath = Path("/usr/share/gocode")
    packages = ("grpc", "protobuf")
    if request.param == "go" and not all((gopath / "src/google.golang.org" / name).exists() for name in packages):
        pytest.skip("gRPC for Go is not installed")
    # Debian 12's gRPC 1.33 takes it, which panics at messages of the other API: it compiles, and cannot send one.
    if request.param == "go" and (gopath / "src/github.com/golang/protobuf/proto/table_marshal.go").exists():
        pytest.skip("gRPC for Go uses a protobuf before 1.4, which knows no code that is generated today")
    root = tmp_path_factory.mktemp("compiled")
    # Where Go looks for a package `outrider` that is no module.
    folder = root / "src" / "outrider"
    shutil.copytree(ROOT / "examples" / request.param, folder)
    variables = {"GO111MODULE": "off", "GOPATH": f"{root}:{gopath}", "GOCACHE": str(root / "cache"), "GOFLAGS": ""}
    made = subprocess.run(
        ["make", "-C", str(folder), f"PROTOS={ROOT / 'protos'}"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return (str(folder / "generate"),)


def _start(home: Path, command: Sequence[str], **variables: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        env=environment(home) | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What a test reads of the output is gone from it, and no more than that.
        bufsize=0,
    )


def _end(process: "subprocess.Popen[bytes]", read: bytes = b"") -> Finished:
    out, err = process.communicate(timeout=2 * PATIENCE_S)
    return Finished(process.returncode, (read + out).decode(), err.decode())


def _example(home: Path, command: Sequence[str], *arguments: str, **variables: str) -> Finished:
    return _end(_start(home, [*command, *arguments], **variables))


def _expected(home: Path, system: Serving, *arguments: str) -> dict[str, Any]:
    """What our own client is told."""
    finished = run(home, "generate", "--address", system.address, "--json", *arguments)
    assert finished.returncode == 0, finished.stderr
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer


def _status(system: Serving) -> generation_pb2.GetStatusResponse:
    with grpc.insecure_channel(system.address) as channel:
        # The stubs are typed for asyncio alone.
        stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)  # type: ignore[arg-type]
        reply: generation_pb2.GetStatusResponse = stub.GetStatus(generation_pb2.GetStatusRequest(), timeout=PATIENCE_S)
        return reply


def test_the_text_is_the_one_of_our_own_client(system: Serving, client: Sequence[str], home: Path) -> None:
    expected = _expected(home, system, *ASKED)
    finished = _example(home, client, "--address", system.address, *ASKED)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == expected["text"]
    line = r"\n64 tokens, \d+\.\d tokens/s, \d+ of \d+ draft tokens accepted, seed 11\n"
    assert re.fullmatch(line, finished.stderr), finished.stderr


def test_a_seed_of_64_bits_comes_back_whole(system: Serving, client: Sequence[str], home: Path) -> None:
    asked = ("--address", system.address, "--max-tokens", "4", "--seed", str(2**64 - 1), PROMPT)
    assert _example(home, client, *asked).stderr.endswith(f"seed {2**64 - 1}\n")


def test_a_compiled_client(system: Serving, compiled: Sequence[str], home: Path) -> None:
    asked = ("--address", system.address, "--max-tokens", "64", "--temperature", "0.8")
    expected = _expected(home, system, *asked[2:], "--seed", str(2**64 - 1), PROMPT)
    finished = _example(home, compiled, *asked, "--seed", str(2**64 - 1), PROMPT)
    assert (finished.returncode, finished.stdout) == (0, expected["text"])
    assert re.fullmatch(rf"\n64 tokens, \d+\.\d tokens/s, seed {2**64 - 1}\n", finished.stderr), finished.stderr
    drawn = _example(home, compiled, *asked, PROMPT)
    assert 0 <= int(drawn.stderr.rpartition(" ")[2]) < 2**53
    refused = _example(home, compiled, "--address", system.address, "--max-tokens", "0", PROMPT)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert re.fullmatch(r".*INVALID_REQUEST.*: ask for at least one token\n", refused.stderr)
    misused = _example(home, compiled, "--max-tokens", "many", PROMPT)
    assert (misused.returncode, misused.stdout) == (2, "")


async def test_a_compiled_client_in_a_terminal(wild: str, compiled: Sequence[str], home: Path) -> None:
    finished = await asyncio.to_thread(run_in_terminal, home, [*compiled, "--address", wild, PROMPT])
    assert finished.returncode == 0
    assert not set(finished.stdout) & set(ACTING) - {"\r"}
    piped = await asyncio.to_thread(_example, home, compiled, "--address", wild, PROMPT)
    assert piped.stdout == "".join(TOKENS)


def test_a_proxy_in_the_environment_is_not_asked(system: Serving, client: Sequence[str], home: Path) -> None:
    target = _status(system).target.address
    with proxying() as proxy:
        variables = dict.fromkeys(VARIABLES, proxy.url)
        for command, address in ((client, system.address), (VERIFY, target)):
            finished = _example(home, command, "--address", address, "--max-tokens", "4", PROMPT, **variables)
            assert (finished.returncode, proxy.requests) == (0, []), finished.stderr


def test_an_interrupt_ends_the_work_behind_it(system: Serving, client: Sequence[str], home: Path) -> None:
    num_tokens = 1800
    before = _status(system).speculation
    process = _start(home, [*client, "--address", system.address, "--max-tokens", str(num_tokens), PROMPT])
    assert process.stdout is not None
    read = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    finished = _end(process, read)
    assert (finished.returncode, finished.stderr) == (130, "")
    eventually(lambda: _status(system).num_active == 0)
    after = _status(system).speculation
    # Each cycle commits the target's own token and those that were accepted.
    num_cycles = after.num_cycles - before.num_cycles
    num_accepted = after.num_accepted_tokens - before.num_accepted_tokens
    assert 0 < num_cycles + num_accepted < num_tokens


def test_a_refusal_is_one_line(system: Serving, client: Sequence[str], home: Path) -> None:
    finished = _example(home, client, "--address", system.address, "--max-tokens", "0", PROMPT)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert re.fullmatch(r"INVALID_ARGUMENT.*: ask for at least one token\n", finished.stderr)


@pytest.mark.parametrize("flag", ["--max-tokens", "--temperature", "--timeout", "--seed"])
def test_a_value_that_is_no_number(client: Sequence[str], home: Path, flag: str) -> None:
    finished = _example(home, client, flag, "many", PROMPT)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "usage:" in finished.stderr
    assert any(flag in line and "'many'" in line for line in finished.stderr.splitlines())


def test_a_deadline_that_passes(system: Serving, client: Sequence[str], home: Path) -> None:
    finished = _example(home, client, "--address", system.address, "--timeout", "0.001", PROMPT)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert re.fullmatch(r"DEADLINE_EXCEEDED.*\n", finished.stderr)


def test_nobody_answers(client: Sequence[str], home: Path) -> None:
    finished = _example(home, client, "--address", f"127.0.0.1:{free_port()}", PROMPT)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert re.fullmatch(r"UNAVAILABLE.*\n", finished.stderr)


class Unwilling(generation_pb2_grpc.GenerationServiceServicer):
    """Fails the first call after some chunks, and wants to be asked again; serves the others."""

    def __init__(self, num_chunks: int) -> None:
        self.num_calls = 0
        self._num_chunks = num_chunks

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: RpcContext
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        self.num_calls += 1
        for text in ("one ", "two")[: self._num_chunks if self.num_calls == 1 else None]:
            yield generation_pb2.GenerateResponse(chunk=generation_pb2.GenerateChunk(text=text))
        if self.num_calls == 1:
            await abort(context, ServiceError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", "later", retry_after_s=0.01))
        yield generation_pb2.GenerateResponse(
            summary=generation_pb2.GenerateSummary(
                usage=generation_pb2.Usage(num_generated_tokens=2),
                timings=generation_pb2.GenerationTimings(total_ms=1),
                speculation=generation_pb2.SpeculationStatistics(num_cycles=2),
            )
        )


@asynccontextmanager
async def _serving(servicer: generation_pb2_grpc.GenerationServiceServicer) -> AsyncIterator[str]:
    server = grpc.aio.server()
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def _unwilling(num_chunks: int) -> AsyncIterator[tuple[Unwilling, str]]:
    servicer = Unwilling(num_chunks)  # type: ignore[abstract]  # nobody asks it for its status
    async with _serving(servicer) as address:
        yield servicer, address


async def test_a_server_that_says_when_to_come_back(client: Sequence[str], home: Path) -> None:
    async with _unwilling(num_chunks=0) as (servicer, address):
        finished = await asyncio.to_thread(_example, home, client, "--address", address, PROMPT)
    assert (finished.returncode, finished.stdout, servicer.num_calls) == (0, "one two", 2)
    assert finished.stderr.startswith("waiting: later\n")


async def test_no_text_is_told_twice(client: Sequence[str], home: Path) -> None:
    async with _unwilling(num_chunks=1) as (servicer, address):
        finished = await asyncio.to_thread(_example, home, client, "--address", address, PROMPT)
    assert (finished.returncode, finished.stdout, servicer.num_calls) == (1, "one ", 1)
    assert finished.stderr.startswith("UNAVAILABLE")


class Endless(generation_pb2_grpc.GenerationServiceServicer):
    """Says one word, and nothing more for as long as it is asked."""

    async def Generate(
        self, request: generation_pb2.GenerateRequest, context: RpcContext
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        yield generation_pb2.GenerateResponse(chunk=generation_pb2.GenerateChunk(text="one"))
        await asyncio.Event().wait()


async def test_a_server_that_falls_silent_is_given_up(client: Sequence[str], home: Path) -> None:
    """By keepalive, long before the time for the answer is over: as if it was stopped, or its machine lost."""
    async with _serving(Endless()) as address, relaying(address) as relay:  # type: ignore[abstract]
        process = _start(home, [*client, "--address", relay.address, "--timeout", "600", PROMPT])
        assert process.stdout is not None
        read = await asyncio.to_thread(process.stdout.read, 3)
        relay.fall_silent()
        finished = await asyncio.to_thread(_end, process, read)
    assert (finished.returncode, finished.stdout) == (1, "one")
    assert finished.stderr.startswith("UNAVAILABLE"), finished.stderr


async def test_a_terminal_is_not_at_the_mercy_of_the_model(wild: str, client: Sequence[str], home: Path) -> None:
    finished = await asyncio.to_thread(run_in_terminal, home, [*client, "--address", wild, PROMPT])
    assert (finished.returncode, finished.stdout) == (0, SHOWN + "".join(HARMLESS))
    refused = await asyncio.to_thread(run_in_terminal, home, [*client, "--address", wild, "x"])
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.endswith(f": not {NAME_SHOWN}\nnor that\n")


async def test_a_pipe_gets_every_byte(wild: str, client: Sequence[str], home: Path) -> None:
    finished = await asyncio.to_thread(_example, home, client, "--address", wild, PROMPT)
    assert (finished.returncode, finished.stdout) == (0, "".join(TOKENS))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
async def test_a_full_disk_is_one_sentence(wild: str, client: Sequence[str], home: Path) -> None:
    full = ["sh", "-c", 'exec "$@" >/dev/full', "sh", *client, "--address", wild, PROMPT]
    finished = await asyncio.to_thread(_example, home, full)
    assert finished.returncode == 1
    assert re.fullmatch(r"cannot write to stdout: .*[Nn]o space left on device.*\n", finished.stderr)


def _counts(finished: Finished) -> list[int]:
    """Tokens, those of them that were drafted, passes, replays."""
    assert finished.returncode == 0, finished.stderr
    # What it waited for comes first.
    found = re.fullmatch(
        r"(?:waiting: .+\n)*\n(\d+) tokens, (\d+) of them drafted, in (\d+) passes, (\d+) replays\n", finished.stderr
    )
    assert found, finished.stderr
    return [int(number) for number in found.groups()]


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_drafts_of_its_own_do_not_change_the_text(system: Serving, home: Path, temperature: str) -> None:
    asked = ("--max-tokens", "200", "--temperature", temperature, "--seed", "11", "for i in for i in for i in")
    expected = _expected(home, system, *asked)
    finished = _example(home, VERIFY, "--address", _status(system).target.address, *asked)
    assert finished.stdout == expected["text"]
    num_tokens, num_accepted, num_passes, num_replays = _counts(finished)
    assert num_tokens == expected["usage"]["num_generated_tokens"] == num_accepted + num_passes
    assert (num_replays, num_accepted > 0) == (0, True)


def test_the_target_dies_under_a_client_of_its_own(system: Serving, home: Path) -> None:
    asked = ("--max-tokens", "400", PROMPT)
    expected = _expected(home, system, *asked)
    process = _start(home, [*VERIFY, "--address", _status(system).target.address, *asked])
    assert process.stdout is not None
    read = process.stdout.read(1)
    old_pid = system.kill("target")
    finished = _end(process, read)
    assert finished.stdout == expected["text"]
    assert _counts(finished)[3] == 1
    system.restarted("target", old_pid)
