"""Messages that cannot be read: a clear status for their caller, and nothing for anybody else."""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from outrider.v1 import target_pb2
from services.frame.rpc.call_status import CallStatus
from services.frame.rpc.errors import ServiceError
from services.frame.server import FrameServer
from tests.calls import replies

Connect = Callable[[FrameServer], Any]
Request = target_pb2.TokenizeRequest


async def unary(request: Request, context: Any) -> bytes:
    return request.text.encode()


async def generator(request: Request, context: Any) -> AsyncIterator[bytes]:
    yield request.text.encode()


async def writer(request: Request, context: Any) -> None:
    await context.write(request.text.encode())


async def collector(requests: AsyncIterator[Request], context: Any) -> bytes:
    return b"".join([request.text.encode() async for request in requests])


async def duplex(requests: AsyncIterator[Request], context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request.text.encode()


async def reader(requests: AsyncIterator[Request], context: Any) -> None:
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(request.text.encode())


HANDLERS: dict[str, Any] = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary, Request.FromString),
    "Generator": grpc.unary_stream_rpc_method_handler(generator, Request.FromString),
    "Writer": grpc.unary_stream_rpc_method_handler(writer, Request.FromString),
    "Collector": grpc.stream_unary_rpc_method_handler(collector, Request.FromString),
    "Duplex": grpc.stream_stream_rpc_method_handler(duplex, Request.FromString),
    "Reader": grpc.stream_stream_rpc_method_handler(reader, Request.FromString),
}
GOOD = Request(text="hello").SerializeToString()
# A text of two bytes, which are not UTF-8.
NOT_UTF8 = b"\x0a\x02\xff\xfe"
UNREADABLE = {
    "not UTF-8": (NOT_UTF8, "INVALID_UTF8"),
    "garbage": (bytes(range(200, 256)), "INVALID_REQUEST"),
    "cut off": (GOOD[:-1], "INVALID_REQUEST"),
}


async def call(channel: Any, method: str, requests: list[bytes]) -> list[bytes]:
    """Send requests as they are, and return the replies. Raises ServiceError."""
    path = f"/test.Echo/{method}"
    match method:
        case "Unary":
            calls = [channel.unary_unary(path)(request) for request in requests]
        case "Generator" | "Writer":
            calls = [channel.unary_stream(path)(request) for request in requests]
        case "Collector":
            calls = [channel.stream_unary(path)(requests)]
        case _:
            calls = [channel.stream_stream(path)(requests)]
    return [reply for call in calls for reply in await replies(call)]


@pytest.mark.parametrize("method", HANDLERS)
@pytest.mark.parametrize("name", UNREADABLE)
async def test_unreadable_messages_are_refused(
    serve: Any, connect: Connect, method: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    data, reason = UNREADABLE[name]
    channel = connect(await serve(HANDLERS))
    with caplog.at_level(logging.WARNING), pytest.raises(ServiceError) as failed:
        await call(channel, method, [data])
    error = failed.value
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert error.message
    # Nothing is wrong with the service.
    assert caplog.text == ""
    assert await call(channel, method, [GOOD]) == [b"hello"]


@pytest.mark.parametrize("method", ["Duplex", "Reader"])
async def test_an_unreadable_message_ends_its_stream_after_the_replies(
    serve: Any, connect: Connect, method: str
) -> None:
    stream = connect(await serve(HANDLERS)).stream_stream(f"/test.Echo/{method}")()
    status = CallStatus(stream)
    await stream.write(GOOD)
    assert await stream.read() == b"hello"
    with contextlib.suppress(grpc.aio.AioRpcError):  # of which the status knows more
        await stream.write(NOT_UTF8)
    error = await status.error()
    assert error is not None
    assert error.reason == "INVALID_UTF8"


async def test_a_call_with_an_unreadable_message_counts_as_ended(serve: Any, connect: Connect) -> None:
    server = await serve(HANDLERS)
    with pytest.raises(ServiceError):
        await call(connect(server), "Unary", [NOT_UTF8])
    await server._registry.wait_idle()
    assert server._registry.num_under_way == 0
