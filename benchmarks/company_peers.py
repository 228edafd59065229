"""What company.py measures the project against: a bare loop over the same libraries, and llama-server."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from company_measure import Chunk, Stream, run_together
from company_systems import HEAD_START, ROOT, Answer, Models, Setting
from tracing import environment

_PAUSE_S = 0.1
# Events of llama-server that come within this are one chunk.
_TOGETHER_S = 0.001


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
        self._ports: dict[Setting, int] = {}
        self._processes: dict[Setting, asyncio.subprocess.Process] = {}

    async def start(self, running: AsyncExitStack) -> None:
        """Return when all of them serve."""
        for setting in self.settings:
            self._ports[setting] = await self._start_one(running, setting)

    async def ask(self, prompts: Sequence[str], setting: Setting, num_tokens: int) -> Answer:
        """Go on with all prompts at once; see `System.ask`."""
        port = self._ports[setting]
        asks = [_completing(port, text, num_tokens + HEAD_START) for text in prompts]
        return Answer(await run_together(asks, num_tokens), {})

    def pids(self, setting: Setting) -> list[int]:
        """Return the id of the process that serves this setting; see `System.pids`."""
        return [self._processes[setting].pid]

    async def _start_one(self, running: AsyncExitStack, setting: Setting) -> int:
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
        await _until_healthy(port, process)
        return port


def _completing(port: int, text: str, num_tokens: int) -> Callable[[Stream], Awaitable[None]]:
    question = {"prompt": text, "n_predict": num_tokens, "temperature": 0, "stream": True, "return_tokens": True}

    async def ask(stream: Stream) -> None:
        rest = b""
        async for data in _http(port, "POST /completion", json.dumps(question).encode()):
            *lines, rest = (rest + data).split(b"\n")
            events = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: ")]
            if num_arrived := sum(len(event["tokens"]) for event in events if not event["stop"]):
                stream.add(num_arrived)

    return ask


async def _http(port: int, what: str, body: bytes = b"") -> AsyncIterator[bytes]:
    """Ask on a connection of its own and give the answer as it arrives, headers and sizes of chunks included.

    An HTTP client takes a tenth of a core for this at 200 events a second. Raises ConnectionError where the answer is
    another one than OK.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"{what} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        if b" 200 " not in (status := await reader.readline()):
            raise ConnectionError(f"{what} was answered {status.decode().strip()}")
        while first := await reader.read(1):
            # The server sends every token of a draft as an event of its own; what comes at once is one chunk.
            await asyncio.sleep(_TOGETHER_S)
            yield first + await reader.read(1 << 16)
    finally:
        writer.close()


async def _until_healthy(port: int, process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:
        with contextlib.suppress(ConnectionError):  # it does not listen, or not serve yet
            async for _ in _http(port, "GET /health"):
                pass
            return
        await asyncio.sleep(_PAUSE_S)
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
