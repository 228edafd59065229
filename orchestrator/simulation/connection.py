"""A gRPC stream without gRPC: real messages between the two halves of the session protocol, each with its delay."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

# What serves the messages of one stream until it ends.
Serve = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True)
class Link:
    """The way to a service: messages take half a round trip each way, and `late_s(n)` more with the n-th request."""

    round_trip_s: float
    late_s: Callable[[int], float] = lambda num_sent: 0.0


class _Way:
    """One direction of a stream: a message arrives after its delay, and never before those that were sent earlier."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._under_way: deque[Any] = deque()
        self._last_s = 0.0

    def send(self, message: Any, delay_s: float) -> None:
        """Send a message."""
        loop = asyncio.get_running_loop()
        self._last_s = max(self._last_s, loop.time() + delay_s)
        self._under_way.append(message)
        loop.call_at(self._last_s, self._arrive)

    async def receive(self) -> Any:
        """Return the next message, once it is there."""
        return await self._arrived.get()

    def _arrive(self) -> None:
        self._arrived.put_nowait(self._under_way.popleft())


class Call:
    """The caller's end of a stream, in the place of a `grpc.aio.StreamStreamCall`."""

    def __init__(self, link: Link, serve: Serve) -> None:
        """Let `serve` serve the other end."""
        self._link = link
        self._there, self._back = _Way(), _Way()
        self._num_sent = 0
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._callbacks: list[Callable[[Any], object]] = []
        self._task = asyncio.ensure_future(self._serve(serve))

    async def write(self, message: Any) -> None:
        """Send a message. Raises asyncio.InvalidStateError where the stream has ended."""
        if self._code is not None:
            raise asyncio.InvalidStateError
        self._there.send(message, self._link.round_trip_s / 2 + self._link.late_s(self._num_sent))
        self._num_sent += 1

    async def done_writing(self) -> None:
        """Send nothing more."""
        self._there.send(grpc.aio.EOF, self._link.round_trip_s / 2)

    def cancel(self) -> bool:
        """End the stream at once on this side, and on the other when it hears of it."""
        asyncio.get_running_loop().call_later(self._link.round_trip_s / 2, self._task.cancel)
        self._end(grpc.StatusCode.CANCELLED, "cancelled by the caller")
        return True

    def cut(self, details: str) -> None:
        """End the stream on both sides: the connection is lost."""
        self._task.cancel()
        self._end(grpc.StatusCode.UNAVAILABLE, details)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call it once the stream has ended."""
        self._callbacks.append(callback)

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self._back.receive()) is not grpc.aio.EOF:
            yield message

    async def code(self) -> grpc.StatusCode | None:
        """Return the status of a stream that has ended."""
        return self._code

    async def details(self) -> str:
        """Return what is said of the status."""
        return self._details

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Return nothing."""
        return grpc.aio.Metadata()

    trailing_metadata = initial_metadata

    async def debug_error_string(self) -> str:
        """Return nothing."""
        return ""

    # The other end, in the place of a `grpc.aio.ServicerContext`.

    async def _serve(self, serve: Serve) -> None:
        await serve(_ServicerContext(self._there, self._back, self._link.round_trip_s / 2))
        asyncio.get_running_loop().call_later(self._link.round_trip_s / 2, self._end, grpc.StatusCode.OK, "")

    def _end(self, code: grpc.StatusCode, details: str) -> None:
        if self._code is not None:
            return
        self._code, self._details = code, details
        for callback in self._callbacks:
            callback(self)
        self._back.send(grpc.aio.EOF, 0.0)


class _ServicerContext:
    """The service's end, in the place of a `grpc.aio.ServicerContext`."""

    def __init__(self, there: _Way, back: _Way, one_way_s: float) -> None:
        self._there, self._back, self._one_way_s = there, back, one_way_s

    async def read(self) -> Any:
        """Return the next message; `grpc.aio.EOF` at the end."""
        return await self._there.receive()

    async def write(self, message: Any) -> None:
        """Send a message."""
        self._back.send(message, self._one_way_s)


class Door:
    """Where callers reach a service, under the names of a stub's methods that open streams."""

    def __init__(self, serve: Serve, link: Link) -> None:
        """Serve every stream with `serve`; `link` is the way here."""
        self._serve = serve
        self._link = link
        self._calls: list[Call] = []
        self._is_open = True

    def VerifyStream(self, metadata: Sequence[tuple[str, str]]) -> Call:
        """Open a stream."""
        call = Call(self._link, self._serve)
        self._calls.append(call)
        if not self._is_open:
            call.cut("nobody answers")
        return call

    ProposeStream = VerifyStream

    def close(self) -> None:
        """Cut every stream, and let no new one in."""
        self._is_open = False
        for call in self._calls:
            call.cut("the connection is lost")
        self._calls.clear()

    def reopen(self, serve: Serve) -> None:
        """Let callers in again, to a service that may be another one."""
        self._serve, self._is_open = serve, True
