"""The caller's half: one session of a service, what the service holds of it, and the stream to it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import grpc
from opentelemetry.trace import Span

from outrider.v1 import common_pb2
from services.frame.rpc.call_status import CallStatus
from services.frame.rpc.errors import ServiceError, error_from_status
from services.frame.telemetry import headers_of
from services.session.sequence import TokenSequence

MessageT = TypeVar("MessageT")
# A reply of either service: it has `request_id` and one of the outcomes `result`, `cache_miss` and `error`.
ReplyT = TypeVar("ReplyT", bound=Any)


class ServiceSession(Generic[MessageT, ReplyT]):
    """One session of a service.

    What the service is believed to hold is only ever a hint: a wrong one costs a cache miss and a replay. The stream is
    opened by the first request, and again by the next one after it broke. A reply that nobody waits for any more,
    because it came too late, is dropped by its id.
    """

    def __init__(self, session_id: str, open_call: Callable[[], Any]) -> None:
        """`open_call` starts the gRPC call; its messages wrap a request on the way out and a reply on the way in."""
        self.num_resyncs = 0
        # Set when the stream ended from the other side: whoever answers next may be another server.
        self.has_broken = False
        self._session_id = session_id
        self._request_id = 0
        self._held_length = 0
        # What the service holds beyond the sequence of the last request: draft tokens that may not have been accepted.
        self._ahead_of = 0
        self._ahead: Sequence[int] = ()
        self._open_call = open_call
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[ReplyT]] = {}

    @property
    def is_open(self) -> bool:
        """Whether the stream has been opened and has not ended."""
        return self._call is not None

    def was_cut(self, error: ServiceError) -> bool:
        """Whether an error of `exchange` is a stream that somebody on the way ended, not a word of the service."""
        is_of_service = f"ERROR_REASON_{error.reason}" in common_pb2.ErrorReason.keys()  # noqa: SIM118  no mapping
        return not (self.is_open or is_of_service)

    async def request(
        self, sequence: TokenSequence, span: Span, send: Callable[[common_pb2.Context, int], Awaitable[ReplyT]]
    ) -> ReplyT:
        """Send a request for the whole sequence, replaying what the service lacks, until there is a result.

        `send` takes the context and the request id. It ends: a request with `cached_length` 0 never misses.
        """
        while True:
            reply = await send(self.context(sequence, span), self.next_request_id())
            if reply.WhichOneof("outcome") != "cache_miss":
                return reply
            miss = reply.cache_miss
            self.num_resyncs += 1
            span.add_event("outrider.resync", {"outrider.held_length": miss.held_length})
            asked_length = self.context(sequence, span).cached_length
            is_prefix = sequence.has_prefix(miss.held_length, miss.held_digest) and miss.held_length < asked_length
            self.learn(sequence, miss.held_length if is_prefix else 0)

    async def exchange(self, request_id: int, message: MessageT, timeout_s: float | None) -> ReplyT:
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

    async def send(self, message: MessageT) -> None:
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

    def learn(self, sequence: TokenSequence, held_length: int, ahead: Sequence[int] = ()) -> None:
        """Remember that the service holds `held_length` tokens of the sequence followed by `ahead`."""
        self._held_length, self._ahead_of, self._ahead = held_length, len(sequence), ahead

    def forget(self) -> None:
        """Believe nothing: the service may be another one now. Counts as a resync if there was something to lose."""
        self.num_resyncs += self._held_length > 0
        self._held_length, self._ahead = 0, ()

    def next_request_id(self) -> int:
        """Return an id above all earlier ones."""
        self._request_id += 1
        return self._request_id

    def context(self, sequence: TokenSequence, span: Span) -> common_pb2.Context:
        """Return the context of a request that builds on the whole sequence."""
        length = min(self._common_length(sequence), len(sequence) - 1)
        trace = headers_of(span)
        return common_pb2.Context(
            session_id=self._session_id,
            cached_length=length,
            cached_digest=sequence.digests[length] if length else b"",
            tokens=sequence.tokens[length:],
            traceparent=trace.traceparent,
            tracestate=trace.tracestate,
        )

    def _common_length(self, sequence: TokenSequence) -> int:
        length = self._ahead_of
        for token, ahead in zip(sequence.tokens[length:], self._ahead, strict=False):
            if token != ahead:
                break
            length += 1
        return min(length, self._held_length)

    async def _write(self, message: MessageT) -> None:
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
