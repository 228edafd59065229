"""How a stream of requests ended: what the server said, whatever became of the last write.

grpc.aio puts an error of its own in the place of the server's status when a write fails as the call ends
(grpc/grpc#36066): for good where the status came before the write failed, for a moment where it comes after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

from services.frame.rpc.errors import ServiceError, error_from_rpc

_LOST = (grpc.StatusCode.INTERNAL, "Internal error from Core")
# The status follows the failed write within milliseconds, but nothing says when.
_PATIENCE_S = 5.0
_PAUSE_S = 0.001

T = TypeVar("T")


class CallStatus:
    """The status of one call. Make it before anything is written."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._first: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._keep)

    async def error(self) -> ServiceError | None:
        """Return why the call ended, None where all was well. Call it once every reply has been read."""
        status = self._first or await _status(self._call)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while _is_lost(status):
                    await asyncio.sleep(_PAUSE_S)
                    status = await _status(self._call)
        except TimeoutError:
            return ServiceError(grpc.StatusCode.UNAVAILABLE, "STREAM_BROKEN", "the stream broke during a write")
        return None if status.code() is grpc.StatusCode.OK else error_from_rpc(status)

    def _keep(self, _: object) -> None:
        """Remember the status before a write that fails can take its place."""
        self._first = self._first or _at_once(_status(self._call))


async def _status(call: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await call.code(),
        await call.initial_metadata(),
        await call.trailing_metadata(),
        await call.details(),
        await call.debug_error_string(),
    )


def _is_lost(status: grpc.aio.AioRpcError) -> bool:
    return (status.code(), status.details()) == _LOST


def _at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("a call that is done has its status")
