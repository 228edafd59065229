"""The systems that company.py measures: the services of a checkout, the bare loop, llama-server. All stream tokens."""

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import httpx2
from company_measure import Chunk, Stream
from tracing import environment

from orchestrator.client import fetch_status, generate
from orchestrator.stack import ServerProcess
from outrider.v1 import generation_pb2
from services.frame.channel import open_channel
from services.frame.health import watch_health

ROOT = Path(__file__).resolve().parents[1]
_PAUSE_S = 0.01
# A target that loads is waited for; a draft is given its time, since the benchmark is about who waits for whom.
_ORCHESTRATOR_FLAGS = ("--log-level", "error", "--target-patience-s", "300")
_COUNTS = ("num_cycles", "num_drafts", "num_draft_tokens", "num_accepted_tokens", "num_resyncs", "num_fallbacks")


@dataclass(frozen=True)
class Setting:
    """So many draft tokens, 0 for plain decoding, which can be had without a draft service that idles beside."""

    num_draft_tokens: int
    has_draft: bool = True

    @property
    def name(self) -> str:
        """How it is called on the command line and in results."""
        if self.num_draft_tokens:
            return str(self.num_draft_tokens)
        return "plain" if self.has_draft else "alone"

    @staticmethod
    def parse(name: str) -> "Setting":
        """Return the setting of this name. Raises ValueError where there is none."""
        if name in ("plain", "alone"):
            return Setting(0, has_draft=name == "plain")
        if not 1 <= int(name) <= 64:
            raise ValueError("1 to 64 draft tokens can be asked for")
        return Setting(int(name))


@dataclass(frozen=True)
class Models:
    """What every system runs, and how: context in tokens of each slot, threads of a decode."""

    target: Path
    draft: Path
    slots: int
    context: int
    threads: int

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of a service, and of the bare loop."""
        return ("--slots", str(self.slots), "--context", str(self.context), "--threads", str(self.threads))


@dataclass(frozen=True)
class Answer:
    """The streams of one measurement, and what the system counted meanwhile."""

    streams: Sequence[Stream]
    counts: dict[str, int]


class System(Protocol):
    """Something that is measured. Its processes are started by `start` and stopped by the stack that it is given."""

    name: str
    settings: Sequence[Setting]

    async def start(self, running: AsyncExitStack) -> None:
        """Return when it can be asked."""

    async def ask(self, prompts: Sequence[str], setting: Setting, num_tokens: int) -> Answer:
        """Go on with all prompts at once, greedily, until the first one has so many tokens."""

    def pids(self, setting: Setting) -> list[int]:
        """Return the ids of the processes that serve this setting; the others idle."""


async def run_together(asks: Sequence[Callable[[Stream], Awaitable[None]]]) -> list[Stream]:
    """Run all, and cut off the others when the first one ends. Raises what the first one raised."""

    async def run(ask: Callable[[Stream], Awaitable[None]], stream: Stream) -> None:
        await ask(stream)
        stream.has_ended = True

    streams = [Stream() for _ in asks]
    tasks = [asyncio.ensure_future(run(ask, stream)) for ask, stream in zip(asks, streams, strict=True)]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return streams


@dataclass(frozen=True)
class Checkout:
    """A checkout of the project, and flags for its services. Where `record` is set, decodes are written down there."""

    root: Path
    target_flags: Sequence[str] = ()
    draft_flags: Sequence[str] = ()
    record: Path | None = None


class Services:
    """Target, draft and orchestrator of a checkout; for plain decoding without a draft, another two processes."""

    def __init__(self, name: str, checkout: Checkout, models: Models, settings: Sequence[Setting]) -> None:
        self.name = name
        self.settings = settings
        self._checkout = checkout
        self._models = models
        # With a draft and without one.
        self._addresses: dict[bool, str] = {}
        self._processes: dict[bool, list[ServerProcess]] = {True: [], False: []}

    async def start(self, running: AsyncExitStack) -> None:
        """Return when the orchestrators serve."""
        for has_draft in sorted({setting.has_draft for setting in self.settings}, reverse=True):
            self._addresses[has_draft] = await self._start_stack(running, has_draft)

    async def ask(self, prompts: Sequence[str], setting: Setting, num_tokens: int) -> Answer:
        """Go on with all prompts at once; see `System.ask`."""
        address = self._addresses[setting.has_draft]
        before = await _speculation(address)
        requests = [_request(text, setting, num_tokens) for text in prompts]
        streams = await run_together([_streaming(address, request) for request in requests])
        after = await _speculation(address)
        return Answer(streams, {name: getattr(after, name) - getattr(before, name) for name in _COUNTS})

    def pids(self, setting: Setting) -> list[int]:
        """Return the ids of the processes that serve this setting; see `System.pids`."""
        return [process.pid for process in self._processes[setting.has_draft] if process.pid is not None]

    async def _start_stack(self, running: AsyncExitStack, has_draft: bool) -> str:
        checkout, processes = self._checkout, self._processes[has_draft]
        target_flags = ("--model", str(self._models.target), "--exact", "off", *checkout.target_flags)
        processes.append(self._service("target", target_flags))
        peers = ["--target", await self._start(running, processes[-1])]
        if has_draft:
            draft_flags = ("--model", str(self._models.draft), *checkout.draft_flags)
            processes.append(self._service("draft", draft_flags))
            peers += ["--draft", await self._start(running, processes[-1])]
        processes.append(ServerProcess("orchestrator", (*_ORCHESTRATOR_FLAGS, *peers)))
        address = await self._start(running, processes[-1])
        for server in (*peers[1::2], address):
            await _until_serving(server)
        return address

    def _service(self, kind: str, flags: Sequence[str]) -> ServerProcess:
        flags = (*self._models.flags, "--log-level", "error", *flags)
        if record := self._checkout.record:
            return ServerProcess("company_service", ("--service", kind, "--record", f"{record}.{kind}", *flags))
        return ServerProcess(f"services.{kind}", flags)

    async def _start(self, running: AsyncExitStack, process: ServerProcess) -> str:
        root = self._checkout.root
        paths = (root, root / "protos", Path(__file__).parent)
        # The working directory would come before everything else.
        with environment(PYTHONPATH=os.pathsep.join(map(str, paths)), PYTHONSAFEPATH="1"):
            address = await process.start()
        running.push_async_callback(process.stop)
        return address


def _request(text: str, setting: Setting, num_tokens: int) -> generation_pb2.GenerateRequest:
    fixed, off = generation_pb2.SPECULATION_MODE_FIXED, generation_pb2.SPECULATION_MODE_OFF
    num_draft_tokens = setting.num_draft_tokens
    speculation = generation_pb2.Speculation(
        mode=fixed if num_draft_tokens else off,
        num_draft_tokens=num_draft_tokens,
        drafter=generation_pb2.DRAFTER_REMOTE,
    )
    return generation_pb2.GenerateRequest(text=text, max_tokens=num_tokens, seed=1, speculation=speculation)


def _streaming(address: str, request: generation_pb2.GenerateRequest) -> Callable[[Stream], Awaitable[None]]:
    async def ask(stream: Stream) -> None:
        async for message in generate(address, request):
            if num_tokens := len(message.chunk.tokens):
                stream.chunks.append(Chunk(time.perf_counter(), num_tokens))

    return ask


async def _speculation(address: str) -> generation_pb2.SpeculationStatistics:
    """Return what speculation did so far, once no request is under way."""
    while (status := await fetch_status(address)).num_active:
        await asyncio.sleep(_PAUSE_S)
    return status.speculation


async def _until_serving(address: str) -> None:
    async with open_channel(address) as channel:
        try:
            async for is_serving in watch_health(channel, ""):
                if is_serving:
                    return
        except grpc.aio.AioRpcError as error:
            raise RuntimeError(f"what was started at {address} has ended") from error


class Floor:
    """The bare loop, in a process of its own."""

    def __init__(self, models: Models, settings: Sequence[Setting], flash_attention: str) -> None:
        self.name = "floor" if flash_attention == "off" else "floor, flash attention"
        self.settings = [setting for setting in settings if setting.has_draft]
        self._models = models
        self._flash_attention = flash_attention
        self._process: asyncio.subprocess.Process

    async def start(self, running: AsyncExitStack) -> None:
        """Start it; the first question waits for the models."""
        models = self._models
        with environment(PYTHONPATH=os.pathsep.join(map(str, (ROOT, ROOT / "protos")))):
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(ROOT / "benchmarks" / "company_floor.py"), *models.flags),
                *("--target", str(models.target), "--draft", str(models.draft)),
                *("--flash-attention", self._flash_attention),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                # Answers have one line.
                limit=1 << 26,
            )
        running.push_async_callback(_stop, self._process)

    async def ask(self, prompts: Sequence[str], setting: Setting, num_tokens: int) -> Answer:
        """Go on with all prompts at once; see `System.ask`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        question = {"prompts": prompts, "num_draft_tokens": setting.num_draft_tokens, "num_tokens": num_tokens}
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        if not (line := await self._process.stdout.readline()):
            raise RuntimeError("the bare loop has ended")
        answers = json.loads(line)
        return Answer(
            [Stream([Chunk(*chunk) for chunk in answer["chunks"]], answer["has_ended"]) for answer in answers], {}
        )

    def pids(self, setting: Setting) -> list[int]:
        """Return the id of its process."""
        return [self._process.pid]


class LlamaServer:
    """llama-server, one for each setting: the number of draft tokens cannot be set by request."""

    name = "llama-server"

    def __init__(self, program: Path, models: Models, settings: Sequence[Setting], flags: Sequence[str]) -> None:
        self.settings = [setting for setting in settings if setting.has_draft]
        self._program = program
        self._models = models
        self._flags = flags
        self._addresses: dict[Setting, str] = {}
        self._processes: dict[Setting, asyncio.subprocess.Process] = {}

    async def start(self, running: AsyncExitStack) -> None:
        """Return when all of them serve."""
        for setting in self.settings:
            self._addresses[setting] = await self._start_one(running, setting)

    async def ask(self, prompts: Sequence[str], setting: Setting, num_tokens: int) -> Answer:
        """Go on with all prompts at once; see `System.ask`."""
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=self._addresses[setting], timeout=None, limits=limits) as client:
            asks = [_completing(client, text, num_tokens) for text in prompts]
            return Answer(await run_together(asks), {})

    def pids(self, setting: Setting) -> list[int]:
        """Return the id of the process that serves this setting; see `System.pids`."""
        return [self._processes[setting].pid]

    async def _start_one(self, running: AsyncExitStack, setting: Setting) -> str:
        models, port = self._models, _free_port()
        threads = str(models.threads or len(os.sched_getaffinity(0)))
        flags = ["--model", str(models.target), "--parallel", str(models.slots), "--threads", threads]
        flags += ["--ctx-size", str(models.slots * models.context), "--host", "127.0.0.1", "--port", str(port)]
        flags += ["--offline", "--no-ui", "--log-verbosity", "1"]
        if setting.num_draft_tokens:
            flags += ["--model-draft", str(models.draft), "--spec-type", "draft-simple"]
            flags += ["--spec-draft-n-max", str(setting.num_draft_tokens), "--spec-draft-threads", threads]
        process = await asyncio.create_subprocess_exec(self._program, *flags, *self._flags, stdout=sys.stderr.fileno())
        running.push_async_callback(_stop, process)
        self._processes[setting] = process
        address = f"http://127.0.0.1:{port}"
        await _until_healthy(address, process)
        return address


def _completing(client: httpx2.AsyncClient, text: str, num_tokens: int) -> Callable[[Stream], Awaitable[None]]:
    question = {"prompt": text, "n_predict": num_tokens, "temperature": 0, "stream": True, "return_tokens": True}

    async def ask(stream: Stream) -> None:
        rest = b""
        async with client.stream("POST", "/completion", json=question) as reply:
            reply.raise_for_status()
            # What arrived together is one chunk: the server sends every token of a draft as an event of its own.
            async for data in reply.aiter_raw():
                *lines, rest = (rest + data).split(b"\n")
                events = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: ")]
                arrived = sum(len(event["tokens"]) for event in events if not event["stop"])
                if arrived:
                    stream.chunks.append(Chunk(time.perf_counter(), arrived))

    return ask


async def _until_healthy(address: str, process: asyncio.subprocess.Process) -> None:
    async with httpx2.AsyncClient(base_url=address) as client:
        while process.returncode is None:
            try:
                if (await client.get("/health")).is_success:
                    return
            except httpx2.TransportError:
                pass  # it does not listen yet
            await asyncio.sleep(0.1)
    raise RuntimeError(f"llama-server ended with code {process.returncode}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        await process.wait()
