"""The caller's half: one session of a service, what the service is believed to hold, and what it takes."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Self, TypeVar

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


class Limits:
    """How much a service takes, as it describes itself, or less where it refuses more."""

    def __init__(self, max_draft_tokens: int = 0, context_length: int = 0) -> None:
        """At most `max_draft_tokens` in one request, and `context_length` tokens in a sequence."""
        self.max_draft_tokens = max_draft_tokens
        self.context_length = context_length

    @classmethod
    def of(cls, model: common_pb2.ModelInfo) -> Self:
        """Return what a service says of itself."""
        return cls(model.max_draft_tokens, model.context_length)

    def learn(self, error: ServiceError) -> bool:
        """Lower the limit that a refusal names. Return whether that changed it, so that the next try may pass."""
        most = error.metadata.get("most", "")
        if not most.isdecimal():
            return False
        if error.reason == "DRAFT_TOO_LONG" and int(most) < self.max_draft_tokens:
            self.max_draft_tokens = int(most)
        elif error.reason == "CONTEXT_TOO_LONG" and int(most) < self.context_length:
            self.context_length = int(most)
        else:
            return False
        return True


class ServiceSession(Generic[MessageT, ReplyT]):
    """One session of a service, and the stream that carries it.

    What the service is believed to hold is only a guess: a wrong one costs a cache miss and a replay. The first request
    opens the stream, and so does the next one after it broke. A reply that comes too late is dropped by its id.
    """

    def __init__(self, session_id: str, open_call: Callable[[], Any], hear: Callable[[], None] | None = None) -> None:
        """`open_call` starts the gRPC call, whose messages wrap our requests and the service's replies.

        `hear` is told of a result that nobody waits for any more.
        """
        self.num_resyncs = 0
        # The other side ended the stream: whoever answers next may be another server.
        self.has_broken = False
        self._session_id = session_id
        self._request_id = 0
        # The service holds so many tokens: of the sequence, which was so long, and of the draft tokens after it.
        self._held_length = 0
        self._sequence_length = 0
        self._draft_tokens: Sequence[int] = ()
        self._open_call = open_call
        self._hear = hear
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[ReplyT]] = {}

    @property
    def is_open(self) -> bool:
        """Whether the stream has been opened and has not ended."""
        return self._call is not None

    def was_cut(self, error: ServiceError) -> bool:
        """Whether somebody on the way ended the stream: an error of `exchange` that is no word of the service."""
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
            sent_length = self.context(sequence, span).cached_length
            is_prefix = sequence.has_prefix(miss.held_length, miss.held_digest) and miss.held_length < sent_length
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

    def learn(self, sequence: TokenSequence, held_length: int, draft_tokens: Sequence[int] = ()) -> None:
        """Remember that the service holds `held_length` tokens of the sequence with the draft tokens after it."""
        self._held_length, self._sequence_length, self._draft_tokens = held_length, len(sequence), draft_tokens

    def forget(self) -> None:
        """Believe that nothing is held: the service may be another one now. A resync, where something was held."""
        self.num_resyncs += self._held_length > 0
        self._held_length, self._draft_tokens = 0, ()

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
        """Return how much of the sequence the service is believed to hold."""
        length = self._sequence_length
        for token, draft_token in zip(sequence.tokens[length:], self._draft_tokens, strict=False):
            if token != draft_token:
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
            self._abandon()
            raise

    def _abandon(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    async def _read(self, call: Any, status: CallStatus) -> None:
        try:
            error = await self._read_replies(call, status)
        except asyncio.CancelledError:
            # By somebody on the way: nobody waits for a stream that we cut ourselves.
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
                elif self._hear is not None and message.response.HasField("result"):
                    self._hear()
        ended = ServiceError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", "the service ended the stream")
        return await status.error() or ended
