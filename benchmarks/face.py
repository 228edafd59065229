"""What HTTP costs over gRPC, and what a crowd of idle and slow clients costs the others, on a clock model.

`python benchmarks/face.py [--streams 1 16] [--tokens N] [--decode-ms MS] [--rounds N] [--crowd]` prints JSON lines:

- `a token`: milliseconds from one token to the next, over gRPC and over `/v1/completions` in turns, by streams at a
  time; the orchestrator's own time on a core for each token; and what HTTP adds;
- `crowd` (with `--crowd`): the same of four streams over HTTP, alone and beside 1,000 idle connections and 200 clients
  that ask for megabytes of text and never read.

The target is `face_target.py`: its decodes are slept through, so that nothing but what is in front of it is measured.
The client is written for this: it looks for the beginnings of events, and decodes no JSON.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
import uvloop

from outrider.v1 import generation_pb2, generation_pb2_grpc

_WARM_UP_TOKENS = 10
_NUM_IDLE, _NUM_SLOW, _NUM_RUNNING = 1000, 200, 4
_SLOW_TOKENS = 400
_WORD, _LARGE = 5, 1


@dataclass(frozen=True)
class Run:
    """Of one round: milliseconds a token, and of them on the orchestrator's core."""

    token_ms: float
    core_ms: float


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
            seconds = await asyncio.gather(*(ask(channel, num_tokens) for _ in range(num_streams)))
        after = self.process.cpu_times()
        spent_s = after.user + after.system - before.user - before.system
        return Run(1e3 * statistics.mean(seconds), 1e3 * spent_s / (num_streams * num_tokens))

    async def grpc_stream(self, channel: grpc.aio.Channel, num_tokens: int) -> float:
        """Return the seconds from one token to the next, over gRPC."""
        request = generation_pb2.GenerateRequest(
            tokens=generation_pb2.TokenPrompt(tokens=[_WORD]), max_tokens=num_tokens
        )
        ended_s = []
        async for message in generation_pb2_grpc.GenerationServiceStub(channel).Generate(request):
            if message.HasField("chunk"):
                ended_s.append(time.perf_counter())
        return _between(ended_s)

    async def http_stream(self, channel: grpc.aio.Channel, num_tokens: int) -> float:
        """Return the same over HTTP. Raises OSError."""
        reader, writer = await self.ask(_WORD, num_tokens)
        ended_s: list[float] = []
        while b"[DONE]" not in (read := await reader.read(1 << 16)):
            ended_s += [time.perf_counter()] * read.count(b'"text":" w')
        writer.close()
        return _between(ended_s)

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
        slow = [await self.ask(_LARGE, _SLOW_TOKENS) for _ in range(_NUM_SLOW)]
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


def _between(ended_s: Sequence[float]) -> float:
    measured = ended_s[_WARM_UP_TOKENS:]
    return (measured[-1] - measured[0]) / (len(measured) - 1)


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


async def _measure(given: argparse.Namespace) -> None:
    async with running(given.decode_ms) as rig:
        for num_streams in given.streams:
            runs: dict[str, list[Run]] = {"grpc": [], "http": []}
            for _ in range(given.rounds):
                for face, kept in runs.items():
                    kept.append(await rig.measure(face, num_streams, given.tokens))
            told = {
                f"{face}_{what}": round(statistics.median(getattr(run, what) for run in kept), 4)
                for face, kept in runs.items()
                for what in ("token_ms", "core_ms")
            }
            for what in ("token_ms", "core_ms"):
                told[f"added_{what}"] = round(told[f"http_{what}"] - told[f"grpc_{what}"], 4)
            print(json.dumps({"what": "a token", "streams": num_streams} | told), flush=True)
        if given.crowd:
            alone = [await rig.measure("http", _NUM_RUNNING, given.tokens) for _ in range(given.rounds)]
            async with rig.crowd():
                beside = [await rig.measure("http", _NUM_RUNNING, given.tokens) for _ in range(given.rounds)]
            alone_ms, beside_ms = (statistics.median(run.token_ms for run in runs) for runs in (alone, beside))
            told = {"alone_ms": round(alone_ms, 4), "beside_ms": round(beside_ms, 4)}
            slower = {"slower_percent": round(100 * (beside_ms / alone_ms - 1), 2)}
            counts = {"idle": _NUM_IDLE, "slow": _NUM_SLOW, "streams": _NUM_RUNNING}
            print(json.dumps({"what": "crowd"} | counts | told | slower), flush=True)


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
