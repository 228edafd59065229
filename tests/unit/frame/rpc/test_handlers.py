import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from outrider.v1 import model_pb2, model_pb2_grpc
from services.frame.rpc.errors import ServiceError
from services.frame.rpc.handlers import HandlerRegistry, RpcContext
from services.frame.server import FrameServer
from tests.calls import replies
from tests.waiting import PATIENCE_S

Connect = Callable[[FrameServer], grpc.aio.Channel]

REFUSED = ServiceError(grpc.StatusCode.OUT_OF_RANGE, "DRAFT_TOO_LONG", "at most 8", metadata={"most": "8"})


def failing_behaviors(error: Exception) -> dict[str, Any]:
    """One method of each kind and style, all of which raise `error`, the streaming ones after a first reply."""

    async def unary(request: bytes, context: Any) -> bytes:
        raise error

    async def generator(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise error

    async def writer(request: bytes, context: Any) -> None:
        await context.write(b"first")
        raise error

    async def collector(requests: AsyncIterator[bytes], context: Any) -> bytes:
        async for _ in requests:
            raise error
        return b""

    async def duplex(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            raise error

    return {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Generator": grpc.unary_stream_rpc_method_handler(generator),
        "Writer": grpc.unary_stream_rpc_method_handler(writer),
        "Collector": grpc.stream_unary_rpc_method_handler(collector),
        "Duplex": grpc.stream_stream_rpc_method_handler(duplex),
    }


async def call(channel: grpc.aio.Channel, method: str) -> list[bytes]:
    """Call a method of `failing_behaviors` in its own way and return its replies. Raises ServiceError."""
    path = f"/test.Echo/{method}"
    match method:
        case "Unary":
            return await replies(channel.unary_unary(path)(b""))
        case "Collector":
            return await replies(channel.stream_unary(path)([b"one", b"two"]))
        case "Duplex":
            return await replies(channel.stream_stream(path)([b"one", b"two"]))
        case _:
            return await replies(channel.unary_stream(path)(b""))


@pytest.mark.parametrize("method", ["Unary", "Generator", "Writer", "Collector", "Duplex"])
async def test_a_service_error_ends_the_call_with_its_details(serve: Any, connect: Connect, method: str) -> None:
    channel = connect(await serve(failing_behaviors(REFUSED)))
    with pytest.raises(ServiceError) as failed:
        await call(channel, method)
    error = failed.value
    assert (error.code, error.reason, error.message) == (REFUSED.code, REFUSED.reason, REFUSED.message)
    assert error.metadata == {"most": "8"}


@pytest.mark.parametrize("method", ["Unary", "Generator", "Writer", "Collector", "Duplex"])
async def test_an_unexpected_error_is_internal_and_told_to_the_log_only(
    serve: Any, connect: Connect, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    channel = connect(await serve(failing_behaviors(RuntimeError("secret"))))
    with caplog.at_level(logging.ERROR), pytest.raises(ServiceError) as failed:
        await call(channel, method)
    error = failed.value
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in error.message
    assert error.metadata["reference"] in caplog.text
    assert "RuntimeError: secret" in caplog.text


@pytest.mark.parametrize("letter", ["x", "日", "😀"])
async def test_a_long_message_arrives_with_its_code_and_reason(serve: Any, connect: Connect, letter: str) -> None:
    error = ServiceError(grpc.StatusCode.OUT_OF_RANGE, "DRAFT_TOO_LONG", letter * 10_000)
    channel = connect(await serve(failing_behaviors(error)))
    with pytest.raises(ServiceError) as failed:
        await call(channel, "Unary")
    assert (failed.value.code, failed.value.reason) == (error.code, error.reason)
    assert failed.value.message.startswith(letter * 100)


async def test_a_behavior_may_end_the_call_itself(serve: Any, connect: Connect) -> None:
    async def unary(request: bytes, context: RpcContext) -> bytes:
        await context.abort(grpc.StatusCode.DATA_LOSS, "mine")

    channel = connect(await serve({"Unary": grpc.unary_unary_rpc_method_handler(unary)}))
    with pytest.raises(ServiceError) as failed:
        await call(channel, "Unary")
    assert (failed.value.code, failed.value.message) == (grpc.StatusCode.DATA_LOSS, "mine")


async def test_others_are_served_after_an_error(serve: Any, connect: Connect) -> None:
    async def unary(request: bytes, context: Any) -> bytes:
        if request == b"bad":
            raise REFUSED
        return request

    method = connect(await serve({"Unary": grpc.unary_unary_rpc_method_handler(unary)})).unary_unary("/test.Echo/Unary")
    with pytest.raises(grpc.aio.AioRpcError):
        await method(b"bad")
    assert await method(b"good") == b"good"


async def test_a_client_that_vanishes_between_replies_closes_the_generator(serve: Any, connect: Connect) -> None:
    closed = asyncio.Event()

    async def endless(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                # More than a client's window, so that the server waits in the middle of sending.
                yield bytes(1 << 20)
        finally:
            closed.set()

    server = await serve({"Endless": grpc.unary_stream_rpc_method_handler(endless)})
    stream = connect(server).unary_stream("/test.Echo/Endless")(b"")
    assert len(await stream.read()) == 1 << 20
    stream.cancel()
    await asyncio.wait_for(closed.wait(), 10)
    # The call no longer counts as under way.
    await asyncio.wait_for(server.stop(3600), 30)


async def test_an_unknown_method_is_unimplemented(serve: Any, connect: Connect) -> None:
    channel = connect(await serve())
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await channel.unary_unary("/test.Echo/Other")(b"")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED


def blocking(request: bytes, context: object) -> bytes:
    return request


async def generator_as_unary(request: bytes, context: object) -> AsyncIterator[bytes]:
    yield request


@pytest.mark.parametrize(
    "handler",
    [
        grpc.unary_unary_rpc_method_handler(blocking),
        grpc.unary_stream_rpc_method_handler(blocking),
        grpc.unary_unary_rpc_method_handler(generator_as_unary),
    ],
    ids=["unary", "stream", "generator"],
)
def test_a_behavior_that_would_block_the_loop_is_refused(handler: Any) -> None:
    with pytest.raises(TypeError, match=r"/test\.Echo/Blocking must be a coroutine function"):
        HandlerRegistry().add_registered_method_handlers("test.Echo", {"Blocking": handler})


async def test_generated_servicers_register(serve: Any, connect: Connect) -> None:
    class Servicer(model_pb2_grpc.ModelServiceServicer):
        async def GetModel(self, request: model_pb2.GetModelRequest, context: RpcContext) -> model_pb2.GetModelResponse:
            response = model_pb2.GetModelResponse()
            response.model.name = "tiny"
            return response

        async def GetTokenTable(
            self, request: model_pb2.GetTokenTableRequest, context: RpcContext
        ) -> AsyncIterator[model_pb2.GetTokenTableResponse]:
            for first_token in (0, request.max_entries):
                yield model_pb2.GetTokenTableResponse(first_token=first_token)

    server = await serve()
    server.register(model_pb2_grpc.add_ModelServiceServicer_to_server, Servicer())
    stub = model_pb2_grpc.ModelServiceStub(connect(server))
    assert (await stub.GetModel(model_pb2.GetModelRequest())).model.name == "tiny"
    parts = [part.first_token async for part in stub.GetTokenTable(model_pb2.GetTokenTableRequest(max_entries=5))]
    assert parts == [0, 5]


@pytest.mark.parametrize("style", ["writer", "generator"])
async def test_headers_of_a_stream_come_before_its_first_request(serve: Any, connect: Connect, style: str) -> None:
    async def writer(requests: AsyncIterator[bytes], context: RpcContext) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(request)

    async def generator(requests: AsyncIterator[bytes], context: RpcContext) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    behavior: Any = writer if style == "writer" else generator
    channel = connect(await serve({"Both": grpc.stream_stream_rpc_method_handler(behavior)}))
    call: Any = channel.stream_stream("/test.Echo/Both")()
    async with asyncio.timeout(PATIENCE_S):
        await call.initial_metadata()
        await call.write(b"late")
        assert await call.read() == b"late"
    call.cancel()
