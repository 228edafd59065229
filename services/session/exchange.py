"""Requests of sessions and their answers, over unary calls and over streams alike.

Every request of a session has an id. The same id again is a retry and gets the same answer; a higher one supersedes
what is under way; a lower one is refused. One `Exchange` keeps that promise for both carriers of a service.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.rpc import status_pb2

from outrider.v1 import common_pb2
from services.frame.rpc.errors import ServiceError, invalid_argument, status_of
from services.frame.rpc.handlers import RpcContext
from services.session.duplex import Incoming, Outgoing

# Sessions whose last answer is remembered for a retry.
MAX_REMEMBERED_SESSIONS = 1024
_MAX_SESSION_ID = 128


class SessionRequest(Protocol):
    """What all requests of sessions have in common."""

    @property
    def request_id(self) -> int:
        """Rises within a session."""

    @property
    def context(self) -> common_pb2.Context:
        """The session and its prefix."""


RequestT = TypeVar("RequestT", bound=SessionRequest)
ReplyT = TypeVar("ReplyT")


@dataclass(eq=False)
class _Request(Generic[ReplyT]):
    request_id: int
    task: asyncio.Task[ReplyT]
    num_waiting: int = 0
    refusal: ServiceError | None = None

    def leave(self) -> None:
        """Wait for the answer no longer. When the last caller has vanished, nobody wants it."""
        self.num_waiting -= 1
        if self.num_waiting == 0:
            self.task.cancel()

    def result(self) -> ReplyT:
        """Return the answer that is there. Raises what became of the request instead."""
        if self.refusal is not None:
            raise self.refusal
        return self.task.result()


class Exchange(Generic[RequestT, ReplyT]):
    """Runs the requests of all sessions, at most one at a time for each session."""

    def __init__(
        self,
        answer: Callable[[RequestT], Awaitable[ReplyT]],
        refuse: Callable[[int, status_pb2.Status], ReplyT],
        forget: Callable[[str], None],
    ) -> None:
        """Make an exchange.

        `answer` does the work of one request or raises; `refuse` makes the reply that carries an error on a stream,
        from the request's id; `forget` is told of sessions that were released.
        """
        self._answer = answer
        self._refuse = refuse
        self._forget = forget
        self._requests: OrderedDict[str, _Request[ReplyT]] = OrderedDict()

    async def ask(self, request: RequestT) -> ReplyT:
        """Answer one request.

        Raises:
            ServiceError: the session id is malformed, or the request was superseded or given up.
            Exception: whatever `answer` raised.
        """
        entry = self._enter(request)
        try:
            await asyncio.wait({entry.task})
        finally:
            entry.leave()
        return entry.result()

    def cancel(self, session_id: str, request_id: int) -> None:
        """Give up the request if it is under way."""
        entry = self._requests.get(session_id)
        if entry is not None and entry.request_id == request_id:
            _end(entry, ServiceError(grpc.StatusCode.CANCELLED, "CANCELLED", "the caller gave the request up"))

    def release(self, session_id: str) -> None:
        """Forget the session."""
        entry = self._requests.pop(session_id, None)
        if entry is not None:
            _end(entry, ServiceError(grpc.StatusCode.CANCELLED, "CANCELLED", "the session was released"))
        self._forget(session_id)

    async def serve(
        self, context: RpcContext, field: str, wrap: Callable[[ReplyT], Any], draining: asyncio.Event
    ) -> None:
        """Serve one stream: its messages hold a request in `field`, a `cancel` or a `release`; `wrap` makes replies.

        A failed request is answered with a status and the stream goes on, as a status at the end of a stream may never
        be heard (see `CallStatus`). The stream ends when the caller closes it, or between two messages when the server
        is draining.

        Raises:
            ServiceError: a message holds nothing or cannot be read.
        """
        session_id = ""
        incoming, outgoing = Incoming(context, draining), Outgoing(context, wrap)
        asked: dict[Callable[[object], None], _Request[ReplyT]] = {}
        try:
            while (message := await incoming.next()) is not None:
                kind = message.WhichOneof("message")
                if kind == field:
                    request = getattr(message, field)
                    session_id = session_id or request.context.session_id
                    await outgoing.have_room()
                    self._ask(request, session_id, asked, outgoing)
                elif kind == "cancel":
                    self.cancel(session_id, message.cancel.request_id)
                elif kind == "release":
                    self.release(session_id)
                else:
                    raise invalid_argument("INVALID_REQUEST", "message", f"set one of {field}, cancel, release")
            await outgoing.all_sent()
        finally:
            incoming.close()
            outgoing.close()
            for send, entry in asked.items():
                entry.task.remove_done_callback(send)
                entry.leave()

    def _ask(
        self,
        request: RequestT,
        session_id: str,
        asked: dict[Callable[[object], None], _Request[ReplyT]],
        outgoing: Outgoing[ReplyT],
    ) -> None:
        """Begin one request of a session's stream; its answer goes out when it is there, `asked` is waited for."""

        def send(_: object) -> None:
            asked.pop(send).leave()
            try:
                reply = entry.result()
            except Exception as error:  # status_of logs what is not a ServiceError
                reply = self._refuse(request.request_id, status_of(error))
            outgoing.put(reply)

        try:
            if request.context.session_id != session_id:
                raise invalid_argument(
                    "INVALID_SESSION", "context.session_id", "a stream carries the session of its first message"
                )
            entry = self._enter(request)
        except ServiceError as error:
            outgoing.put(self._refuse(request.request_id, status_of(error)))
            return
        asked[send] = entry
        entry.task.add_done_callback(send)

    def _enter(self, request: RequestT) -> _Request[ReplyT]:
        """Return the work of a request, begun if it was not; the caller has to `leave` it."""
        session_id = checked_session_id(request.context.session_id)
        entry = self._requests.get(session_id)
        if entry is None or request.request_id > entry.request_id or _has_no_answer(entry, request.request_id):
            if entry is not None:
                _end(entry, _superseded(entry.request_id, request.request_id))
            entry = _Request(request.request_id, asyncio.ensure_future(self._answer(request)))
            self._requests[session_id] = entry
            self._requests.move_to_end(session_id)
            self._trim()
        elif request.request_id < entry.request_id:
            raise _superseded(request.request_id, entry.request_id)
        entry.num_waiting += 1
        return entry

    def _trim(self) -> None:
        """Forget the oldest answers. A request under way is passed over, and its answer counts from then on as new."""
        num_too_many = max(0, len(self._requests) - MAX_REMEMBERED_SESSIONS)
        for session_id in list(islice(self._requests, num_too_many)):
            if self._requests[session_id].task.done():
                del self._requests[session_id]
            else:
                self._requests.move_to_end(session_id)


def checked_session_id(session_id: str) -> str:
    """Return the session id. Raises ServiceError when it is empty, too long or not printable ASCII."""
    if not (0 < len(session_id) <= _MAX_SESSION_ID and session_id.isascii() and session_id.isprintable()):
        raise invalid_argument(
            "INVALID_SESSION", "context.session_id", "a session id is 1 to 128 printable ASCII characters"
        )
    return session_id


def _has_no_answer(entry: _Request[Any], request_id: int) -> bool:
    """Whether a retry finds no answer to repeat: its caller vanished before there was one, or there was an error."""
    if entry.request_id != request_id or entry.refusal is not None:
        return False
    task = entry.task
    return task.cancelling() > 0 or (task.done() and (task.cancelled() or task.exception() is not None))


def _end(entry: _Request[Any], refusal: ServiceError) -> None:
    if not entry.task.done():
        entry.refusal = refusal
        entry.task.cancel()


def _superseded(request_id: int, newer_id: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ABORTED, "SUPERSEDED", f"request {request_id} was superseded by request {newer_id}"
    )
