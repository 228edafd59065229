"""Messages that nobody can read or that are too large: a clear answer, and the others go on being served."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue

from outrider.v1 import target_pb2
from services.frame.rpc.errors import ServiceError, error_from_rpc
from tests.calls import replies
from tests.foreign_models import llama, tiny_tokenizer
from tests.integration.clients.target import Other, Target, request, serving
from tests.integration.conftest import Pair
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.integration

HUGE = 100_000_000
VERIFY = "/outrider.v1.TargetService/VerifyBatch"
VERIFY_STREAM = "/outrider.v1.TargetService/VerifyStream"


Send = Callable[[Any, bytes], Coroutine[Any, Any, None]]


async def send_once(channel: Any, data: bytes) -> None:
    try:
        await channel.unary_unary(VERIFY)(data, timeout=PATIENCE_S)
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from error


async def send_on_a_stream(channel: Any, data: bytes) -> None:
    assert await replies(channel.stream_stream(VERIFY_STREAM)([data], timeout=PATIENCE_S)) == []


@pytest.mark.parametrize("send", [send_once, send_on_a_stream])
async def test_a_message_of_a_hundred_megabytes(target: Target, other: Other, send: Send) -> None:
    sending = asyncio.create_task(send(target.channel, bytes(HUGE)))
    while not sending.done():
        await other.ask()
    with pytest.raises(ServiceError) as failed:
        await sending
    assert failed.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    # Its connection is as good as before.
    assert (await target.verify()).HasField("result")
    await other.ask()


UNREADABLE = {
    "garbage": (random.Random(1).randbytes(1000), "INVALID_REQUEST"),
    "cut off": (request().SerializeToString()[:-1], "INVALID_REQUEST"),
    # As a client writes it that does not care: field 3, the context, with field 1, the session id.
    "not UTF-8": (b"\x08\x01\x1a\x05\x0a\x03a\xff\xfe", "INVALID_UTF8"),
}


@pytest.mark.parametrize("send", [send_once, send_on_a_stream])
@pytest.mark.parametrize("name", UNREADABLE)
async def test_bytes_that_are_no_request(target: Target, other: Other, name: str, send: Send) -> None:
    data, reason = UNREADABLE[name]
    if send is send_on_a_stream and name == "not UTF-8":
        data = b"\x0a" + bytes([len(data)]) + data
    with pytest.raises(ServiceError) as failed:
        await send(target.channel, data)
    assert (failed.value.code, failed.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert (await target.verify()).HasField("result")
    await other.ask()


async def test_bytes_that_are_not_even_a_connection(target: Target, other: Other) -> None:
    host, _, port = target.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(random.Random(2).randbytes(100_000))
    async with asyncio.timeout(PATIENCE_S):
        try:
            while await reader.read(4096):
                pass
        except ConnectionResetError:
            pass
    writer.close()
    await other.ask()


async def test_one_very_long_word(tmp_path: Path) -> None:
    """Text is split by a recursive regular expression, which would take more stack than a thread usually has."""
    recursive = GGUFValue("deepseek-llm", GGUFValueType.STRING)
    path = llama(tmp_path / "model.gguf", tokenizer=tiny_tokenizer() | {"tokenizer.ggml.pre": recursive})
    async with serving(Pair(path, path)) as target, grpc.aio.insecure_channel(target.server.address) as channel:
        other = Other(target, channel)
        for word in ("x" * 200_000, " " * 200_000):
            asking = asyncio.ensure_future(target.stub.Tokenize(target_pb2.TokenizeRequest(text=word)))
            await other.ask()
            reply = await asking
            text = await target.stub.Detokenize(target_pb2.DetokenizeRequest(tokens=reply.tokens))
            assert text.text == word.encode()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await target.stub.Tokenize(target_pb2.TokenizeRequest(text="x" * 5_000_000))
        error = error_from_rpc(failed.value)
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        await other.ask()
