"""Answers as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from orchestrator.http.exchange.errors import ClientGoneError, stopping
from orchestrator.http.exchange.running import Generations, unless_gone
from outrider.v1 import generation_pb2
from services.frame.rpc.errors import ServiceError, as_service_error

# Proxies cut what is silent for longer: nginx after 60 s, others after 30.
PING_S = 10.0
# What the last event of an answer that failed may take.
_GOODBYE_S = 1.0
# Before the first event, a line that every client skips.
_COMMENT = b": ping\n\n"
_HEADERS = {
    "cache-control": "no-cache",
    # nginx would keep events back until it has a page of them.
    "x-accel-buffering": "no",
}


class Events(ABC):
    """How one API writes an answer. Each method returns the bytes of any number of events, none too."""

    # What keeps proxies from cutting an answer that is silent.
    ping = _COMMENT

    @abstractmethod
    def begin(self) -> bytes:
        """Return what comes before the first chunk."""

    def prompt(self, index: int, report: generation_pb2.PromptReport) -> bytes:
        """Return what tells of tokens of the prompt; only who asks for them gets any."""
        raise NotImplementedError

    @abstractmethod
    def chunk(self, index: int, chunk: generation_pb2.GenerateChunk) -> bytes:
        """Return what tells of a chunk of the generation at `index`."""

    @abstractmethod
    def end(self, index: int, summary: generation_pb2.GenerateSummary) -> bytes:
        """Return what ends the generation at `index`."""

    @abstractmethod
    def finish(self) -> bytes:
        """Return what comes after the last generation."""

    @abstractmethod
    def fail(self, error: ServiceError) -> bytes:
        """Return what tells of an error after the answer has begun."""


class EventStream(Response):
    """Answers with events as they come. Nothing is ahead of the client but what its connection holds.

    Until the first event an error is answered with its status. One `send` a chunk: it is what the wire costs.
    """

    media_type = "text/event-stream"

    def __init__(self, generations: Generations, events: Events) -> None:
        super().__init__(headers=_HEADERS)
        # It has no length.
        del self.headers["content-length"]
        self._generations = generations
        self._events = events
        self._writing = asyncio.Lock()
        self._has_begun = False
        # What comes before the first chunk, once there is one, until it was written.
        self._first: bytes | None = None
        self._wrote_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises what happens before the first event."""
        self._send = send
        self._abort: Callable[[], object] = scope.get("state", {}).get("abort", lambda: None)
        try:
            await unless_gone(receive, self._answer())
        except ClientGoneError:
            return
        except asyncio.CancelledError:
            if not self._has_begun:
                raise
            await self._fail(stopping())
        except Exception as error:
            if not self._has_begun:
                raise
            await self._fail(as_service_error(error))

    async def _answer(self) -> None:
        async with self._pinging():
            await self._generations.run(self._tell)
        self._begin()
        await self._write(self._events.finish(), is_last=True)

    async def _tell(self, index: int, message: generation_pb2.GenerateResponse) -> None:
        self._begin()
        match message.WhichOneof("message"):
            case "chunk":
                told = self._events.chunk(index, message.chunk)
            case "prompt":
                told = self._events.prompt(index, message.prompt)
            case _:
                told = self._events.end(index, message.summary)
        if told:
            await self._write(told)

    def _begin(self) -> None:
        """Have what comes before the first chunk, which goes with the first events that there are."""
        if self._first is None:
            self._first = self._events.begin()

    async def _write(self, told: bytes, *, is_last: bool = False) -> None:
        async with self._writing:
            if not self._has_begun:
                self._has_begun = True
                await self._send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if self._first:
                told, self._first = self._first + told, b""
            await self._send({"type": "http.response.body", "body": told, "more_body": not is_last})
            self._wrote_s = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def _pinging(self) -> AsyncIterator[None]:
        """Write a ping whenever nothing else was written for so long."""
        loop = asyncio.get_running_loop()
        self._wrote_s = loop.time()

        async def ping() -> None:
            while True:
                if (silent_s := loop.time() - self._wrote_s) < PING_S:
                    await asyncio.sleep(PING_S - silent_s)
                else:
                    await self._write(self._events.ping if self._first == b"" else _COMMENT)

        pinging = asyncio.create_task(ping())
        try:
            yield
        finally:
            pinging.cancel()
            await asyncio.wait([pinging])

    async def _fail(self, error: ServiceError) -> None:
        """Tell of an error as the last event, where the client still reads."""
        try:
            async with asyncio.timeout(0 if error.reason == "UNREAD" else _GOODBYE_S):
                self._begin()
                await self._write(self._events.fail(error), is_last=True)
        except TimeoutError:
            # What is buffered would keep the connection open for as long as nobody reads it.
            self._abort()


def event(data: Any, name: str = "") -> bytes:
    """Return an event whose data is JSON."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {to_json(data)}\n\n".encode()


def to_json(data: Any) -> str:
    """Return JSON without spaces. Raises ValueError for numbers that JSON lacks."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
