"""What HTTP costs over gRPC, and what a crowd of idle and slow clients costs the others, on a clock model.

`python benchmarks/face.py [--streams 1 16] [--tokens N] [--decode-ms MS] [--rounds N] [--crowd]` prints JSON lines:

- `a token`: by streams at a time, over gRPC and over `/v1/completions` in turns, and what HTTP adds: milliseconds from
  the target's answer to the client (`lag_ms`), from one token to the next, and of the orchestrator's core a token;
- `crowd` (with `--crowd`): the same of four streams over HTTP, alone and beside 1,000 idle connections and 200 clients
  that ask for megabytes of text and never read.

The target is `face_target.py`: its decodes are slept through, and its tokens say when they were made. The client is
written for this: it looks for the texts in events, and decodes no JSON.
"""

import argparse
import asyncio
import json
import re
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc
import psutil
import uvloop
from face_target import LARGE, NUM_TIMES

from outrider.v1 import generation_pb2, generation_pb2_grpc

_WARM_UP_TOKENS = 10
_NUM_IDLE, _NUM_SLOW, _NUM_RUNNING = 1000, 200, 4
_SLOW_TOKENS = 400
_ANY = 5


@dataclass(frozen=True)
class Run:
    """Milliseconds of one round: from the target to the client, from token to token, of the core for each token."""

    lag_ms: float
    token_ms: float
    core_ms: float


@dataclass
class Received:
    """When each token of a stream came, in seconds of the monotonic clock, and how long it was on its way."""

    came_s: list[float] = field(default_factory=list)
    lags_ms: list[float] = field(default_factory=list)

    def note(self, texts: Sequence[str]) -> None:
        """Take note of tokens that have just come, by their times."""
        now_s = time.monotonic()
        for text in texts:
            self.came_s.append(now_s)
            self.lags_ms.append((now_s * 1e4 - int(text)) % NUM_TIMES / 10)

    def token_ms(self) -> float:
        """Return the time from one token to the next."""
        measured = self.came_s[_WARM_UP_TOKENS:]
        return 1e3 * (measured[-1] - measured[0]) / (len(measured) - 1)


@dataclass
class Rig:
    """An orchestrator of the clock model."""

    grpc_address: str
    http_address: tuple[str, int]
    process: psutil.Process

    async def measure(self, face: str, num_streams: int, num_tokens: int) -> Run:
        """Run streams at a time for so many tokens each."""
        before = self.process.cpu_times()
        async with grpc.aio.insecure_channel(self.grpc_address) as channel:
            ask = self.http_stream if face == "http" else self.grpc_stream
            streams = await asyncio.gather(*(ask(channel, num_tokens) for _ in range(num_streams)))
        after = self.process.cpu_times()
        spent_s = after.user + after.system - before.user - before.system
        return Run(
            statistics.mean(lag for stream in streams for lag in stream.lags_ms[_WARM_UP_TOKENS:]),
            statistics.mean(stream.token_ms() for stream in streams),
            1e3 * spent_s / (num_streams * num_tokens),
        )

    async def grpc_stream(self, channel: grpc.aio.Channel, num_tokens: int) -> Received:
        """Receive a stream over gRPC."""
        request = generation_pb2.GenerateRequest(
            tokens=generation_pb2.TokenPrompt(tokens=[_ANY]), max_tokens=num_tokens
        )
        received = Received()
        async for message in generation_pb2_grpc.GenerationServiceStub(channel).Generate(request):
            if message.HasField("chunk"):
                received.note([message.chunk.text[2:]])
        return received

    async def http_stream(self, channel: grpc.aio.Channel, num_tokens: int) -> Received:
        """Receive one over HTTP. Raises OSError."""
        reader, writer = await self.ask(_ANY, num_tokens)
        received = Received()
        while b"[DONE]" not in (read := await reader.read(1 << 16)):
            received.note(re.findall(rb'"text":" w(\d+)"', read))
        writer.close()
        return received

    async def ask(self, token: int, num_tokens: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Ask for a stream over a connection of its own."""
        reader, writer = await asyncio.open_connection(*self.http_address)
        body = json.dumps({"prompt": [token], "max_tokens": num_tokens, "stream": True, "temperature": 0}).encode()
        head = "POST /v1/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        return reader, writer

    @asynccontextmanager
    async def crowd(self) -> AsyncIterator[None]:
        """Connections that ask for nothing, and clients that never read."""
        idle = [await asyncio.open_connection(*self.http_address) for _ in range(_NUM_IDLE)]
        slow = [await self.ask(LARGE, _SLOW_TOKENS) for _ in range(_NUM_SLOW)]
        # Until their buffers are full, and nothing is generated for them any more.
        busy_s = -1.0
        while (now_s := sum(self.process.cpu_times()[:2])) - busy_s > 0.1:
            busy_s = now_s
            await asyncio.sleep(2)
        try:
            yield
        finally:
            for _, writer in idle + slow:
                writer.transport.abort()


@asynccontextmanager
async def running(decode_ms: float) -> AsyncIterator[Rig]:
    """The clock model and an orchestrator, as processes."""
    target = await _start(Path(__file__).parent / "face_target.py", "--port", "0", "--decode-ms", str(decode_ms))
    orchestrator = None
    try:
        address = await _said(target, "listening on ")
        flags = ("--target", address, "--port", "0", "--http", "127.0.0.1:0", "--drafter", "none")
        limits = ("--log-level", "error", "--unread-timeout-s", "3600", "--drain-timeout-s", "0")
        orchestrator = await _start("-m", "orchestrator", *flags, *limits)
        host, _, port = (await _said(orchestrator, "HTTP at http://")).rpartition(":")
        grpc_address = await _said(orchestrator, "serving on ")
        yield Rig(grpc_address, (host, int(port)), psutil.Process(orchestrator.pid))
    finally:
        for process in (orchestrator, target):
            if process is not None and process.returncode is None:
                process.terminate()
                await process.wait()


async def _start(*arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, *map(str, arguments), stdout=asyncio.subprocess.PIPE)


async def _said(process: asyncio.subprocess.Process, beginning: str) -> str:
    """Return what follows the beginning of a line that a process says. Raises ValueError where it ends before."""
    assert process.stdout is not None
    async for line in process.stdout:
        if (said := line.decode().strip()).startswith(beginning):
            return said.removeprefix(beginning)
    raise ValueError(f"it ended without a word of {beginning!r}")


def _medians(runs: Sequence[Run]) -> dict[str, float]:
    each = [asdict(run) for run in runs]
    return {name: round(statistics.median(run[name] for run in each), 4) for name in each[0]}


async def _measure(given: argparse.Namespace) -> None:
    async with running(given.decode_ms) as rig:
        for num_streams in given.streams:
            runs: dict[str, list[Run]] = {"grpc": [], "http": []}
            for _ in range(given.rounds):
                for face, kept in runs.items():
                    kept.append(await rig.measure(face, num_streams, given.tokens))
            by_grpc, by_http = (_medians(kept) for kept in runs.values())
            added = {name: round(by_http[name] - by_grpc[name], 4) for name in by_http}
            told = {"what": "a token", "streams": num_streams, "grpc": by_grpc, "http": by_http, "added": added}
            print(json.dumps(told), flush=True)
        if given.crowd:
            alone = [await rig.measure("http", _NUM_RUNNING, given.tokens) for _ in range(given.rounds)]
            async with rig.crowd():
                beside = [await rig.measure("http", _NUM_RUNNING, given.tokens) for _ in range(given.rounds)]
            counts = {"idle": _NUM_IDLE, "slow": _NUM_SLOW, "streams": _NUM_RUNNING}
            print(json.dumps({"what": "crowd"} | counts | {"alone": _medians(alone), "beside": _medians(beside)}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--decode-ms", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--crowd", action="store_true")
    uvloop.run(_measure(parser.parse_args()))


if __name__ == "__main__":
    main()
