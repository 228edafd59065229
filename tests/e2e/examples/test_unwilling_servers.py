"""Servers that want to be asked again, or fall silent."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from outrider.v1 import generation_pb2, generation_pb2_grpc
from services.frame.rpc.errors import ServiceError, abort
from services.frame.rpc.handlers import RpcContext
from tests.e2e.examples.running import PROMPT, end, run_example, start
from tests.relay import relaying

pytestmark = pytest.mark.e2e


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
        finished = await asyncio.to_thread(run_example, home, client, "--address", address, PROMPT)
    assert (finished.returncode, finished.stdout, servicer.num_calls) == (0, "one two", 2)
    assert finished.stderr.startswith("waiting: later\n")


async def test_no_text_is_told_twice(client: Sequence[str], home: Path) -> None:
    async with _unwilling(num_chunks=1) as (servicer, address):
        finished = await asyncio.to_thread(run_example, home, client, "--address", address, PROMPT)
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
        process = start(home, [*client, "--address", relay.address, "--timeout", "600", PROMPT])
        assert process.stdout is not None
        read = await asyncio.to_thread(process.stdout.read, 3)
        relay.fall_silent()
        finished = await asyncio.to_thread(end, process, read)
    assert (finished.returncode, finished.stdout) == (1, "one")
    assert finished.stderr.startswith("UNAVAILABLE"), finished.stderr
