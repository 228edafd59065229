"""One bidirectional stream to a service for one session: requests out, replies matched by their id."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import grpc

from outrider.v1 import common_pb2
from services.frame.call_status import CallStatus
from services.frame.errors import ServiceError, error_from_status

RequestT = TypeVar("RequestT")
# A reply of either service: it has `request_id` and one of the outcomes `result`, `cache_miss` and `error`.
ReplyT = TypeVar("ReplyT", bound=Any)


class SessionStream(Generic[RequestT, ReplyT]):
    """Opened by the first request, and again by the next one after it broke.

    A reply that nobody waits for any more, because it came too late, is dropped by its id.
    """

    def __init__(self, open_call: Callable[[], Any]) -> None:
        """`open_call` starts the gRPC call; its messages wrap a request on the way out and a reply on the way in."""
        self._open_call = open_call
        # Set when the stream ended from the other side: whoever answers next may be another server.
        self.has_broken = False
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[ReplyT]] = {}

    @property
    def is_open(self) -> bool:
        """Whether the stream has been opened and has not ended."""
        return self._call is not None

    def was_cut(self, error: ServiceError) -> bool:
        """Whether an error of `ask` is a stream that ended, and not by a word of the service: somebody on the way."""
        is_of_service = f"ERROR_REASON_{error.reason}" in common_pb2.ErrorReason.keys()  # noqa: SIM118  no mapping
        return not (self.is_open or is_of_service)

    async def ask(self, request_id: int, message: RequestT, timeout_s: float | None) -> ReplyT:
        """Send a message and wait for the reply with this id: a result or a cache miss.

        Raises:
            ServiceError: the service answered with an error, or the stream broke.
            TimeoutError: there was no reply in time.
        """
        if self._call is None:
            self._call = self._open_call()
            self._reader = asyncio.create_task(self._read(self._call, CallStatus(self._call)))
        reply_future: asyncio.Future[ReplyT] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = reply_future
        try:
            async with asyncio.timeout(timeout_s):
                await self._write(message)
                reply = await reply_future
        finally:
            self._waiting.pop(request_id, None)
        if reply.WhichOneof("outcome") == "error":
            raise error_from_status(reply.error)
        return reply

    async def send(self, message: RequestT) -> None:
        """Send a message that is not answered, if the stream is open."""
        if self._call is not None:
            await self._write(message)

    async def close(self) -> None:
        """End the stream after everything that was sent."""
        if self._call is not None:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._call.done_writing()
            self._call = None

    def abandon(self) -> None:
        """Cut the stream without a word."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def _write(self, message: RequestT) -> None:
        try:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # A broken stream is reported by the reader, which knows why.
                await self._call.write(message)
        except asyncio.CancelledError:
            # A write that is cut off ends the call, and the next request needs another one.
            self.abandon()
            raise

    async def _read(self, call: Any, status: CallStatus) -> None:
        try:
            error = await self._read_replies(call, status)
        except asyncio.CancelledError:
            # By somebody on the way: a stream that we abandon has nobody who waits.
            error = ServiceError(grpc.StatusCode.UNAVAILABLE, "STREAM_BROKEN", "the stream was cancelled")
        if self._call is call:
            self._call = None
            self.has_broken = True
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(error)

    async def _read_replies(self, call: Any, status: CallStatus) -> ServiceError:
        """Hand out every reply; return why there are no more."""
        with contextlib.suppress(grpc.aio.AioRpcError):  # of which `status` knows more
            async for message in call:
                if message is None:  # grpc.aio has written to the log why
                    call.cancel()
                    return ServiceError(
                        grpc.StatusCode.INTERNAL, "INTERNAL", "the service sent what is no reply of this protocol"
                    )
                future = self._waiting.pop(message.response.request_id, None)
                if future is not None and not future.done():
                    future.set_result(message.response)
        ended = ServiceError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", "the service ended the stream")
        return await status.error() or ended
