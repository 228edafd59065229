"""What callers of an exchange know: what they asked, and what they are to be told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc

from outrider.v1 import draft_pb2
from services.frame.rpc.errors import error_from_status
from tests.unit.session.exchanging import Reply

# What is told of a request: the answer, as its `held_length`, or the reason of an error.
Told = int | str


@dataclass(eq=False)
class Asked:
    """A request as its caller knows it, and what its caller is to be told; None for nothing yet, or nothing ever."""

    request_id: int
    told: Told | None = None
    call: asyncio.Task[Reply] | None = None
    stream: Stream | None = None


@dataclass(eq=False)
class Entry:
    """What is known of a session's last request."""

    request_id: int
    is_running: bool = True
    # None: a retry tries again.
    told: Told | None = None
    waiting: list[Asked] = field(default_factory=list)

    def end(self, told: Told, remembered: bool = False) -> None:
        """Tell everybody who waits."""
        for asked in self.waiting:
            asked.told = told
        self.waiting.clear()
        self.is_running, self.told = False, told if remembered else None


class Stream:
    """A client's side of a stream, in place of the call's context."""

    def __init__(self) -> None:
        self.session = ""
        self.asked: list[Asked] = []
        self.received: list[tuple[int, Told]] = []
        self.is_closed = False
        self.serving: asyncio.Task[None] | None = None
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()

    async def read(self) -> Any:
        return await self.sent.get()

    async def write(self, message: draft_pb2.ProposeStreamResponse) -> None:
        await self.reads.wait()
        self.received.append((message.response.request_id, told_by(message.response)))

    def end(self) -> None:
        self.sent.put_nowait(grpc.aio.EOF)
        self.is_closed = True

    def send(self, **fields: Any) -> None:
        self.sent.put_nowait(draft_pb2.ProposeStreamRequest(**fields))


def told_by(reply: Reply) -> Told:
    return error_from_status(reply.error).reason if reply.HasField("error") else reply.held_length
