"""The service's half: requests of sessions and their answers, over unary calls and over streams alike.

Every request of a session has an id. The same id again is a retry and gets the same answer; a higher one supersedes
what is under way; a lower one is refused. One `Exchange` keeps that promise for both carriers of a service.

Streams are the hot path: a message costs one trip through the event loop for each thing that it really waits for.
"""

from __future__ import annotations

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
    """The last request of a session: the task that works on it, and how many callers wait for its answer."""

    request_id: int
    task: asyncio.Task[ReplyT]
    num_waiting: int = 0
    refusal: ServiceError | None = None

    def leave(self) -> None:
        """Wait for the answer no longer. When the last caller has vanished, nobody wants it."""
        self.num_waiting -= 1
        if self.num_waiting == 0:
            self.task.cancel()

    def give_up(self, refusal: ServiceError) -> None:
        """End the work that is under way; whoever waits for it gets `refusal`."""
        if not self.task.done():
            self.refusal = refusal
            self.task.cancel()

    def is_to_be_repeated(self) -> bool:
        """Whether a retry begins anew: the callers vanished before there was an answer, or the work failed."""
        if self.refusal is not None:
            return False
        task = self.task
        return task.cancelling() > 0 or (task.done() and (task.cancelled() or task.exception() is not None))

    def result(self) -> ReplyT:
        """Return the answer that is there. Raises what became of the request instead."""
        if self.refusal is not None:
            raise self.refusal
        return self.task.result()


class Exchange(Generic[RequestT, ReplyT]):
    """Runs the requests of all sessions, at most one at a time for each session."""

    def __init__(
        self,
        work: Callable[[RequestT], Awaitable[ReplyT]],
        refuse: Callable[[int, status_pb2.Status], ReplyT],
        forget: Callable[[str], None],
    ) -> None:
        """Work on requests with `work`, which returns the reply to one or raises.

        `refuse` makes the reply that carries an error on a stream, from the request's id. `forget` is called with the
        id of every session that is released, or whose stream has ended: a caller that was cut off while it wrote cannot
        release anything. The session may come back on another stream.
        """
        self._work = work
        self._refuse = refuse
        self._forget = forget
        # By session, the stream that it came on last.
        self._streams: dict[str, Outgoing[ReplyT]] = {}
        self._requests: OrderedDict[str, _Request[ReplyT]] = OrderedDict()

    async def answer(self, request: RequestT) -> ReplyT:
        """Return the reply to a request that came by a unary call.

        Raises:
            ServiceError: the session id is malformed, or the request was superseded or given up.
            Exception: whatever `work` raised.
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
            entry.give_up(ServiceError(grpc.StatusCode.CANCELLED, "CANCELLED", "the caller gave the request up"))

    def release(self, session_id: str) -> None:
        """Forget the session."""
        self._streams.pop(session_id, None)
        entry = self._requests.pop(session_id, None)
        if entry is not None:
            entry.give_up(ServiceError(grpc.StatusCode.CANCELLED, "CANCELLED", "the session was released"))
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
        unanswered: dict[Callable[[object], None], _Request[ReplyT]] = {}
        try:
            while (message := await incoming.next()) is not None:
                kind = message.WhichOneof("message")
                if kind == field:
                    request = getattr(message, field)
                    session_id = session_id or request.context.session_id
                    self._streams[session_id] = outgoing
                    await outgoing.reserve()
                    self._begin(request, session_id, unanswered, outgoing)
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
            for send, entry in unanswered.items():
                entry.task.remove_done_callback(send)
                entry.leave()
            if self._streams.get(session_id) is outgoing:
                del self._streams[session_id]
                self._forget(session_id)

    def _begin(
        self,
        request: RequestT,
        session_id: str,
        unanswered: dict[Callable[[object], None], _Request[ReplyT]],
        outgoing: Outgoing[ReplyT],
    ) -> None:
        """Begin a request of a session's stream. It is `unanswered` until its reply is there and goes out."""

        def send(_: object) -> None:
            unanswered.pop(send).leave()
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
        unanswered[send] = entry
        entry.task.add_done_callback(send)

    def _enter(self, request: RequestT) -> _Request[ReplyT]:
        """Return the work of a request, begun if it was not; the caller has to `leave` it."""
        session_id, request_id = checked_session_id(request.context.session_id), request.request_id
        entry = self._requests.get(session_id)
        if entry is not None and request_id < entry.request_id:
            raise _superseded(request_id, entry.request_id)
        if entry is None or request_id > entry.request_id or entry.is_to_be_repeated():
            if entry is not None and not entry.task.done():
                entry.give_up(_superseded(entry.request_id, request_id))
            entry = _Request(request_id, asyncio.ensure_future(self._work(request)))
            self._requests[session_id] = entry
            self._requests.move_to_end(session_id)
            self._trim()
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


def _superseded(request_id: int, newer_id: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ABORTED, "SUPERSEDED", f"request {request_id} was superseded by request {newer_id}"
    )
