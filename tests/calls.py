"""Calls whose requests are a stream, and how they end: a write that fails as a call ends hides the server's status."""

import contextlib
from typing import Any

import grpc

from services.frame.call_status import CallStatus


async def replies(call: Any) -> list[Any]:
    """All replies of a call that has just been made. Raises ServiceError where the server ended it with an error."""
    status = CallStatus(call)
    received: list[Any] = []
    with contextlib.suppress(grpc.aio.AioRpcError):
        if isinstance(call, grpc.aio.StreamUnaryCall):
            received.append(await call)
        else:
            async for reply in call:
                received.append(reply)
    if error := await status.error():
        raise error
    return received
