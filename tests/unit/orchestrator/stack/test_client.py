"""Orchestrators that have lost their target, are away, are something else, or are cut off: each is a sentence."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from orchestrator.cli.show import collect
from orchestrator.peers.patient_session import target_unavailable
from orchestrator.stack.client import fetch_status, generate
from outrider.v1 import generation_pb2, generation_pb2_grpc
from services.frame.rpc.errors import ServiceError, abort
from tests.ports import free_port


class Failing(generation_pb2_grpc.GenerationServiceServicer):
    """Ends every call with an error."""

    def __init__(self, error: ServiceError) -> None:
        self._error = error

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[generation_pb2.GenerateResponse]:
        await abort(context, self._error)
        yield generation_pb2.GenerateResponse()

    async def GetStatus(self, request: Any, context: Any) -> generation_pb2.GetStatusResponse:
        await abort(context, self._error)


@asynccontextmanager
async def serving(servicer: generation_pb2_grpc.GenerationServiceServicer | None) -> AsyncIterator[str]:
    """The address of a server; it knows no method without a servicer."""
    server = grpc.aio.server()
    if servicer is not None:
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def _refusals(address: str) -> list[ServiceError]:
    """What the two calls of the command line say of a server."""
    with pytest.raises(ServiceError) as generating:
        await collect(generate(address, generation_pb2.GenerateRequest()))
    with pytest.raises(ServiceError) as asking:
        await fetch_status(address)
    return [generating.value, asking.value]


async def test_an_orchestrator_that_has_lost_its_target_is_one_that_answers() -> None:
    """Whatever the words, and whatever became of the target: they are the orchestrator's own."""
    away = target_unavailable("the target has been away for 10 s: failed to connect to all addresses")
    passed_on = ServiceError(grpc.StatusCode.UNIMPLEMENTED, "RPC_UNIMPLEMENTED", "Method not found!")
    for expected in (away, passed_on):
        async with serving(Failing(expected)) as address:
            for error in await _refusals(address):
                assert (error.reason, error.message) == (expected.reason, expected.message)


async def test_nobody_answers() -> None:
    address = f"127.0.0.1:{free_port()}"
    for error in await _refusals(address):
        assert error.reason == "UNREACHABLE"
        assert error.message.startswith(f"no orchestrator answers at {address} (")
        assert "Connection refused" in error.message
        assert error.message.endswith("): start one with `outrider serve`, or name another --address")


async def test_something_else_answers() -> None:
    async with serving(None) as address:
        for error in await _refusals(address):
            assert error.message.startswith(f"what answers at {address} is no orchestrator (")


class Cut(generation_pb2_grpc.GenerationServiceServicer):
    """Ends every generation with a status and no word of ours, after some chunks."""

    def __init__(self, code: grpc.StatusCode, num_chunks: int) -> None:
        self._code = code
        self._num_chunks = num_chunks

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[generation_pb2.GenerateResponse]:
        for _ in range(self._num_chunks):
            yield generation_pb2.GenerateResponse(chunk=generation_pb2.GenerateChunk(text="a"))
        await context.abort(self._code, "it was cut")


@pytest.mark.parametrize("code", ["UNAVAILABLE", "UNKNOWN", "INTERNAL"])
@pytest.mark.parametrize("num_chunks", [0, 1])
async def test_a_proxy_that_cuts_a_generation(code: str, num_chunks: int) -> None:
    """As nginx does with 502, 504 and RST_STREAM."""
    servicer = Cut(grpc.StatusCode[code], num_chunks)  # type: ignore[abstract]  # nobody asks it for its status
    async with serving(servicer) as address:
        with pytest.raises(ServiceError) as info:
            await collect(generate(address, generation_pb2.GenerateRequest()))
    assert info.value.message.startswith(
        f"the orchestrator at {address} was lost (it was cut): "
        if num_chunks
        else f"no orchestrator answers at {address} (it was cut): "
    )
