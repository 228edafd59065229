"""Calls of every kind, and how they end: a write that fails as a call ends hides the server's status."""

import contextlib
from collections.abc import AsyncIterable
from typing import Any

import grpc

from services.frame.rpc.call_status import CallStatus


async def replies(call: Any) -> list[Any]:
    """All replies of a call that has just been made. Raises ServiceError where the server ended it with an error."""
    status = CallStatus(call)
    received: list[Any] = []
    with contextlib.suppress(grpc.aio.AioRpcError):
        if isinstance(call, AsyncIterable):
            async for reply in call:
                received.append(reply)
        else:
            received.append(await call)
    if error := await status.error():
        raise error
    return received
