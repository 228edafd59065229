"""Asking a draft or target service over either carrier, and reading what it answers."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc
from services.frame.server import FrameServer
from tests.waiting import PATIENCE_S

PROMPT = [0, 7, 300, 21, 5]
_session_numbers = itertools.count()


@dataclass
class Service:
    """One of the two services: how to ask it over either carrier."""

    server: FrameServer
    unary: Callable[..., Any]
    stream: Callable[[], Any]
    wrap: Callable[[Any], Any]
    make: Callable[..., Any]

    session_id: str = field(default_factory=lambda: f"session {next(_session_numbers)}")

    def request(self, request_id: int = 1, session_id: str = "") -> Any:
        """A good request."""
        context = common_pb2.Context(session_id=session_id or self.session_id, tokens=PROMPT)
        return self.make(request_id=request_id, context=context)


@asynccontextmanager
async def asking(name: str, server: FrameServer) -> AsyncIterator[Service]:
    """The service called `target` or `draft`, and a session of its own."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        if name == "target":
            target_stub = target_pb2_grpc.TargetServiceStub(channel)
            yield Service(
                server,
                target_stub.VerifyBatch,
                target_stub.VerifyStream,
                lambda request: target_pb2.VerifyStreamRequest(verify=request),
                target_pb2.VerifyBatchRequest,
            )
        else:
            draft_stub = draft_pb2_grpc.DraftServiceStub(channel)
            yield Service(
                server,
                draft_stub.Propose,
                draft_stub.ProposeStream,
                lambda request: draft_pb2.ProposeStreamRequest(propose=request),
                lambda **fields: draft_pb2.ProposeRequest(num_draft_tokens=4, **fields),
            )


def reason_of(status: status_pb2.Status) -> str:
    """The reason, read by hand."""
    (info,) = (
        info
        for detail in status.details
        if detail.TypeName() == error_details_pb2.ErrorInfo.DESCRIPTOR.full_name
        for info in [error_details_pb2.ErrorInfo.FromString(detail.value)]
    )
    assert info.domain == "outrider"
    assert f"ERROR_REASON_{info.reason}" in common_pb2.ErrorReason.keys()  # noqa: SIM118  no mapping
    assert status.message
    return info.reason


async def unary_error(call: Any) -> status_pb2.Status:
    """The rich status that ends a call."""
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await call
    status = rpc_status.from_call(info.value)  # type: ignore[arg-type]  # the stubs know the synchronous call only
    assert status is not None
    assert status.code == info.value.code().value[0]
    return status


async def read(stream: Any) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        message = await stream.read()
    assert message is not grpc.aio.EOF, "the stream ended"
    return message.response


async def ask(service: Service, carrier: str, request: Any) -> Any:
    """The reply to one request."""
    if carrier == "unary":
        return await service.unary(request)
    stream = service.stream()
    await stream.write(service.wrap(request))
    reply = await read(stream)
    stream.cancel()
    return reply


def outcome(reply: Any) -> list[int]:
    """The tokens of a result. Probabilities may differ in their last bits."""
    assert reply.WhichOneof("outcome") == "result"
    if isinstance(reply, target_pb2.VerifyBatchResponse):
        return [reply.result.num_accepted, reply.result.next_token]
    return [draft_token.token for draft_token in reply.result.draft_tokens]
