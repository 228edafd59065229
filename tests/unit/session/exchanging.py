"""A service whose exchange is tested: its work is under way until a test says what becomes of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from google.rpc import status_pb2

from outrider.v1 import common_pb2, draft_pb2
from services.session.exchange import Exchange
from tests.waiting import PATIENCE_S

Request = draft_pb2.ProposeRequest
Reply = draft_pb2.ProposeResponse

SUPERSEDED = (grpc.StatusCode.ABORTED, "SUPERSEDED")
CANCELLED = (grpc.StatusCode.CANCELLED, "CANCELLED")


def request(request_id: int, session_id: str = "a") -> Request:
    return Request(request_id=request_id, context=common_pb2.Context(session_id=session_id))


class Service:
    """Work that is under way until a test says what becomes of it."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.cancelled: list[int] = []
        self.forgotten: list[str] = []
        self.exchange: Exchange[Request, Reply] = Exchange(self._answer, refuse, self.forgotten.append)
        self._outcomes: dict[int, asyncio.Future[Reply]] = {}

    async def _answer(self, request: Request) -> Reply:
        self.started.append(request.request_id)
        try:
            return await self._outcome(request.request_id)
        except asyncio.CancelledError:
            self.cancelled.append(request.request_id)
            raise

    def _outcome(self, request_id: int) -> asyncio.Future[Reply]:
        # A future of its own for each try that was answered.
        if request_id not in self._outcomes or self._outcomes[request_id].done():
            self._outcomes[request_id] = asyncio.get_running_loop().create_future()
        return self._outcomes[request_id]

    def finish(self, request_id: int) -> Reply:
        """Let the work of a request that is under way succeed; return its answer."""
        reply = Reply(request_id=request_id, held_length=len(self.started))
        self._outcomes[request_id].set_result(reply)
        return reply

    def fail(self, request_id: int, error: Exception) -> None:
        """Let the work of a request that is under way fail."""
        self._outcomes[request_id].set_exception(error)

    def has_started(self, request_id: int) -> Callable[[], bool]:
        """Return the condition that the work of a request is under way, or was."""
        return lambda: request_id in self.started

    async def ask(self, request_id: int, session_id: str = "a") -> asyncio.Task[Reply]:
        """Ask and return once the request has been looked at."""
        task = asyncio.create_task(_within_patience(self.exchange.answer(request(request_id, session_id))))
        for _ in range(3):
            await asyncio.sleep(0)
        return task


async def _within_patience(coroutine: Any) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await coroutine


def refuse(request_id: int, status: status_pb2.Status) -> Reply:
    return Reply(request_id=request_id, error=status)
