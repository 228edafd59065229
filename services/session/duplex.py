"""The two directions of one stream of a session: messages as they come, replies as they are ready."""

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import grpc

from services.frame.rpc.handlers import RpcContext

# Answers of one stream that may wait for a slow reader before the stream stops reading requests.
MAX_UNSENT_ANSWERS = 16

ReplyT = TypeVar("ReplyT")


class Incoming:
    """The messages of one stream, until it ends or the server is draining."""

    def __init__(self, context: RpcContext, draining: asyncio.Event) -> None:
        self._context = context
        self._draining = draining
        self._limit: asyncio.Timeout | None = None
        self._watch = asyncio.create_task(self._end_when_draining())

    async def next(self) -> Any:
        """Return the next message, None at the end."""
        if self._draining.is_set():
            return None
        try:
            async with asyncio.timeout(None) as self._limit:
                message = await self._context.read()
        except TimeoutError:
            return None
        finally:
            self._limit = None
        return None if message is grpc.aio.EOF else message

    def close(self) -> None:
        """Stop watching the server."""
        self._watch.cancel()

    async def _end_when_draining(self) -> None:
        await self._draining.wait()
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())


class Outgoing(Generic[ReplyT]):
    """The replies of one stream, sent as they are ready. A place is reserved for each before it is worked on."""

    def __init__(self, context: RpcContext, wrap: Callable[[ReplyT], Any]) -> None:
        """`wrap` turns a reply into a message of the stream."""
        self._context = context
        self._wrap = wrap
        self._room = asyncio.Semaphore(MAX_UNSENT_ANSWERS)
        self._ready: asyncio.Queue[ReplyT] = asyncio.Queue()
        self._writer = asyncio.create_task(self._write())
        self._num_unsent = 0
        self._is_all_sent = asyncio.Event()
        self._is_all_sent.set()

    async def reserve(self) -> None:
        """Reserve a place for one reply; wait while too many are unsent."""
        await self._room.acquire()
        self._num_unsent += 1
        self._is_all_sent.clear()

    def put(self, reply: ReplyT) -> None:
        """Send a reply after the ones before it."""
        self._ready.put_nowait(reply)

    async def all_sent(self) -> None:
        """Return once every place has been filled and its reply sent, or nothing more can be sent."""
        await self._is_all_sent.wait()

    def close(self) -> None:
        """Send nothing more."""
        self._writer.cancel()

    async def _write(self) -> None:
        try:
            while True:
                await self._context.write(self._wrap(await self._ready.get()))
                self._room.release()
                self._num_unsent -= 1
                if not self._num_unsent:
                    self._is_all_sent.set()
        finally:
            self._is_all_sent.set()
