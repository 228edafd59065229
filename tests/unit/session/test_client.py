"""A stream to a service, and what its end is taken for."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from outrider.v1 import draft_pb2
from services.frame.rpc.errors import ServiceError
from services.session.client import ServiceSession
from tests.unit.ending_server import EndingServer, ending_server
from tests.waiting import PATIENCE_S

Stream = ServiceSession[bytes, draft_pb2.ProposeResponse]
REPLY = draft_pb2.ProposeResponse(request_id=1, result=draft_pb2.ProposeResult())
# Whether a write or the status comes first is a matter of luck.
NUM_TRIES = 40


@asynccontextmanager
async def streams(server: EndingServer) -> AsyncIterator[Stream]:
    """A stream to the server, opened by the first request."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        open_call = channel.stream_stream(
            "/test.Ending/Duplex", response_deserializer=draft_pb2.ProposeStreamResponse.FromString
        )
        stream: Stream = ServiceSession("a", open_call)
        yield stream
        await stream.close()


async def error_of(stream: Stream, request_id: int) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await stream.exchange(request_id, b"", PATIENCE_S)
    return caught.value


@pytest.mark.parametrize(
    ("ends_with", "expected"),
    [
        (
            ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SESSION", "another session"),
            (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SESSION"),
        ),
        (
            ServiceError(grpc.StatusCode.INTERNAL, "INTERNAL", "the service failed"),
            (grpc.StatusCode.INTERNAL, "INTERNAL"),
        ),
        (None, (grpc.StatusCode.UNAVAILABLE, "NOT_READY")),
    ],
    ids=["refused", "failed", "ended"],
)
async def test_a_request_as_the_stream_ends_is_told_why(
    ends_with: ServiceError | None, expected: tuple[grpc.StatusCode, str]
) -> None:
    reply = draft_pb2.ProposeStreamResponse(response=REPLY).SerializeToString()
    with ending_server(ends_with, reply) as server:
        for _ in range(NUM_TRIES):
            async with streams(server) as stream:
                assert await stream.exchange(1, b"", PATIENCE_S) == REPLY
                server.end()
                error = await error_of(stream, 2)
                assert (error.code, error.reason) == expected
                assert stream.has_broken


async def test_what_is_no_reply_of_the_protocol_ends_the_stream() -> None:
    with ending_server(reply=b"\xff\xff") as server:
        async with streams(server) as stream:
            error = await error_of(stream, 1)
            assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
            assert stream.has_broken
        server.end()


async def test_a_request_that_could_not_be_sent_in_time_costs_the_next_one_nothing() -> None:
    """A write that is cut off ends its call."""
    calls: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{silent.getsockname()[1]}") as channel:

            def open_call() -> Any:
                calls.append(channel.stream_stream("/test.Silent/Duplex")())
                return calls[-1]

            stream: Stream = ServiceSession("a", open_call)
            for request_id in (1, 2):
                with pytest.raises(TimeoutError):
                    await stream.exchange(request_id, b"", timeout_s=0.001)
            assert len(calls) == 2
            assert all(call.cancelled() for call in calls)
            assert not stream.has_broken
