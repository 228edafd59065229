"""What a server said as it ended a call, where a write of the client failed meanwhile.

Whether the write or the status comes first is a matter of luck, so every case is tried many times.
"""

import asyncio
import contextlib
from typing import Any

import grpc
import pytest

from services.frame.rpc import call_status
from services.frame.rpc.call_status import CallStatus
from services.frame.rpc.errors import ServiceError
from tests.unit.ending_server import EndingServer, ending_server

REFUSED = ServiceError(grpc.StatusCode.DATA_LOSS, "DRAFT_TOO_LONG", "at most 8", metadata={"most": "8"})
NUM_TRIES = 40


async def write_as_it_ends(server: EndingServer, call: Any) -> None:
    """Write until the call is known to have ended."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(b"first")
        server.end()
        while True:
            await call.write(b"more")


@pytest.mark.parametrize("kind", ["stream_stream", "stream_unary"])
async def test_the_servers_status_is_told(kind: str) -> None:
    method = "/test.Ending/Duplex" if kind == "stream_stream" else "/test.Ending/Collector"
    with ending_server(REFUSED) as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            for _ in range(NUM_TRIES):
                call: Any = getattr(channel, kind)(method)()
                status = CallStatus(call)
                await write_as_it_ends(server, call)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    replies = [reply async for reply in call] if kind == "stream_stream" else [await call]
                    assert replies == [b""]
                error = await status.error()
                assert error is not None
                assert (error.code, error.reason, error.message) == (REFUSED.code, REFUSED.reason, REFUSED.message)
                assert error.metadata == REFUSED.metadata


async def test_a_call_that_ended_well_has_no_error() -> None:
    with ending_server() as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            for _ in range(NUM_TRIES):
                call: Any = channel.stream_stream("/test.Ending/Duplex")()
                status = CallStatus(call)
                await write_as_it_ends(server, call)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    assert [reply async for reply in call] == [b""]
                assert await status.error() is None


async def test_a_call_that_its_caller_gave_up() -> None:
    with ending_server() as server:
        async with grpc.aio.insecure_channel(server.address) as channel:
            call: Any = channel.stream_stream("/test.Ending/Duplex")()
            status = CallStatus(call)
            await call.write(b"first")
            call.cancel()
            error = await status.error()
            assert error is not None
            assert error.code is grpc.StatusCode.CANCELLED


class LostCall:
    """A call whose status never comes after the failed write."""

    def add_done_callback(self, callback: Any) -> None:
        callback(self)

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INTERNAL

    async def details(self) -> str:
        return "Internal error from Core"

    async def metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    initial_metadata = trailing_metadata = metadata
    debug_error_string = details


async def test_a_status_that_never_comes_is_a_service_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_status, "_PATIENCE_S", 0.0)
    error = await CallStatus(LostCall()).error()
    assert error is not None
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STREAM_BROKEN")
