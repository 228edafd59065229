"""Retries, supersession, cancellation and release, over unary calls and over streams."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from services.frame import exchange as exchange_module
from services.frame.duplex import MAX_UNSENT_ANSWERS
from services.frame.errors import ServiceError, error_from_rpc, error_from_status
from services.frame.exchange import Exchange, checked_session_id
from services.frame.server import FrameServer
from services.frame.settings import ServerSettings
from tests.waiting import PATIENCE_S, soon

Request = draft_pb2.ProposeRequest
Reply = draft_pb2.ProposeResponse


def request(request_id: int, session_id: str = "a") -> Request:
    return Request(request_id=request_id, context=common_pb2.Context(session_id=session_id))


class Service:
    """Work that is under way until a test says what becomes of it."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.cancelled: list[int] = []
        self.forgotten: list[str] = []
        self.exchange: Exchange[Request, Reply] = Exchange(self._answer, _refuse, self.forgotten.append)
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
        task = asyncio.create_task(_within_patience(self.exchange.ask(request(request_id, session_id))))
        for _ in range(3):
            await asyncio.sleep(0)
        return task


async def _within_patience(coroutine: Any) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await coroutine


def _refuse(request_id: int, status: status_pb2.Status) -> Reply:
    return Reply(request_id=request_id, error=status)


async def _error(task: asyncio.Task[Reply]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(ServiceError) as info:
        await task
    return info.value.code, info.value.reason


SUPERSEDED = (grpc.StatusCode.ABORTED, "SUPERSEDED")
CANCELLED = (grpc.StatusCode.CANCELLED, "CANCELLED")


async def test_a_retry_while_the_work_is_under_way_shares_its_answer() -> None:
    service = Service()
    first, retry = await service.ask(1), await service.ask(1)
    reply = service.finish(1)
    assert await first is reply
    assert await retry is reply
    assert service.started == [1]


async def test_a_retry_afterwards_gets_the_same_answer() -> None:
    service = Service()
    first = await service.ask(1)
    reply = service.finish(1)
    assert await first is reply
    assert await (await service.ask(1)) is reply
    assert service.started == [1]


@pytest.mark.parametrize(
    "error", [ServiceError(grpc.StatusCode.INTERNAL, "DECODE_FAILED", "it failed"), ZeroDivisionError("a defect")]
)
async def test_a_retry_after_an_error_tries_again(error: Exception) -> None:
    service = Service()
    first = await service.ask(1)
    service.fail(1, error)
    with pytest.raises(type(error)):
        await first
    retry = await service.ask(1)
    reply = service.finish(1)
    assert await retry is reply
    assert service.started == [1, 1]


async def test_a_higher_id_supersedes_what_is_under_way() -> None:
    service = Service()
    old = await service.ask(1)
    new = await service.ask(2)
    assert await _error(old) == SUPERSEDED
    assert service.cancelled == [1]
    reply = service.finish(2)
    assert await new is reply


async def test_a_lower_id_is_refused() -> None:
    service = Service()
    current = await service.ask(5)
    assert await _error(await service.ask(4)) == SUPERSEDED
    reply = service.finish(5)
    assert await current is reply
    assert await _error(await service.ask(4)) == SUPERSEDED
    assert service.started == [5]


async def test_a_finished_request_is_not_superseded() -> None:
    service = Service()
    first = await service.ask(1)
    reply = service.finish(1)
    second = await service.ask(2)
    assert await first is reply
    service.finish(2)
    await second
    assert service.cancelled == []


async def test_a_cancelled_request_says_so_and_says_it_again() -> None:
    service = Service()
    task = await service.ask(1)
    service.exchange.cancel("a", 1)
    assert await _error(task) == CANCELLED
    assert service.cancelled == [1]
    assert await _error(await service.ask(1)) == CANCELLED
    assert service.started == [1]


@pytest.mark.parametrize(("session_id", "request_id"), [("a", 1), ("a", 3), ("b", 2), ("", 2)])
async def test_cancelling_something_else_changes_nothing(session_id: str, request_id: int) -> None:
    service = Service()
    task = await service.ask(2)
    service.exchange.cancel(session_id, request_id)
    reply = service.finish(2)
    assert await task is reply


async def test_cancelling_too_late_changes_nothing() -> None:
    service = Service()
    task = await service.ask(1)
    reply = service.finish(1)
    await task
    service.exchange.cancel("a", 1)
    assert await (await service.ask(1)) is reply


async def test_a_released_session_is_forgotten() -> None:
    service = Service()
    task = await service.ask(7)
    service.exchange.release("a")
    assert await _error(task) == CANCELLED
    assert service.forgotten == ["a"]
    # A session of the same name starts anew, with any id.
    again = await service.ask(1)
    reply = service.finish(1)
    assert await again is reply


async def test_sessions_do_not_disturb_each_other() -> None:
    service = Service()
    tasks = [await service.ask(1, "a"), await service.ask(2, "b"), await service.ask(3, "c")]
    service.exchange.release("c")
    assert await _error(tasks[2]) == CANCELLED
    replies = [service.finish(1), service.finish(2)]
    assert [await tasks[0], await tasks[1]] == replies


async def test_a_caller_that_vanishes_cancels_the_work() -> None:
    service = Service()
    task = await service.ask(1)
    task.cancel()
    await asyncio.wait({task})
    await soon(lambda: service.cancelled == [1])
    retry = await service.ask(1)
    reply = service.finish(1)
    assert await retry is reply
    assert service.started == [1, 1]


async def test_a_retry_may_cross_with_the_end_of_a_caller_that_vanished() -> None:
    service = Service()
    task = await service.ask(1)
    task.cancel()
    # Comes in after the caller has vanished and before its work knows.
    retry = await service.ask(1)
    await soon(lambda: service.started == [1, 1])
    reply = service.finish(1)
    assert await retry is reply


async def test_the_work_goes_on_while_another_caller_waits_for_it() -> None:
    service = Service()
    first, retry = await service.ask(1), await service.ask(1)
    first.cancel()
    await asyncio.wait({first})
    reply = service.finish(1)
    assert await retry is reply
    assert service.cancelled == []


async def test_the_answers_of_old_sessions_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "MAX_REMEMBERED_SESSIONS", 2)
    service = Service()
    for request_id, session_id in ((1, "a"), (2, "b"), (3, "a"), (4, "c")):
        task = await service.ask(request_id, session_id)
        service.finish(request_id)
        await task
    assert service.started == [1, 2, 3, 4]
    await (await service.ask(3, "a"))
    assert service.started == [1, 2, 3, 4]
    again = await service.ask(2, "b")
    service.finish(2)
    await again
    assert service.started == [1, 2, 3, 4, 2]


async def test_requests_under_way_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "MAX_REMEMBERED_SESSIONS", 2)
    service = Service()
    tasks = [await service.ask(number, f"session {number}") for number in range(4)]
    retries = [await service.ask(number, f"session {number}") for number in range(4)]
    for number in range(4):
        service.finish(number)
    await asyncio.gather(*tasks, *retries)
    assert service.started == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "session_id",
    [
        pytest.param("", id="empty"),
        pytest.param("x" * 129, id="too long"),
        pytest.param("a\n", id="line break"),
        pytest.param("a\0", id="zero byte"),
        pytest.param("\x7f", id="delete"),
        pytest.param("é", id="not ASCII"),
        pytest.param("\u200b", id="invisible"),
    ],
)
async def test_bad_session_ids_are_refused(session_id: str) -> None:
    service = Service()
    assert await _error(await service.ask(1, session_id)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SESSION")
    assert service.started == []


@pytest.mark.parametrize("session_id", ["a", "x" * 128, "0 ~!#1"])
def test_good_session_ids_are_taken(session_id: str) -> None:
    assert checked_session_id(session_id) == session_id


class StreamApplication(draft_pb2_grpc.DraftServiceServicer):
    """A server whose streams and unary calls share one exchange."""

    service_names = ("outrider.v1.DraftService",)

    def __init__(self, service: Service) -> None:
        self.service = service
        self.wrap: Callable[[Reply], Any] = lambda reply: draft_pb2.ProposeStreamResponse(response=reply)

    async def start(self, server: FrameServer) -> None:
        self._server = server
        server.register(draft_pb2_grpc.add_DraftServiceServicer_to_server, self)

    async def stop(self) -> None:
        pass

    async def Propose(self, request: Request, context: Any) -> Reply:
        return await self.service.exchange.ask(request)

    async def ProposeStream(self, request_iterator: object, context: Any) -> None:  # type: ignore[override]
        await self.service.exchange.serve(context, "propose", self.wrap, self._server.draining)


class Client:
    """A stream to the application."""

    def __init__(self, stub: draft_pb2_grpc.DraftServiceStub) -> None:
        self.call: Any = stub.ProposeStream()

    async def send(self, request_id: int, session_id: str = "a") -> None:
        await self.call.write(draft_pb2.ProposeStreamRequest(propose=request(request_id, session_id)))

    async def cancel(self, request_id: int) -> None:
        message = common_pb2.CancelMessage(request_id=request_id)
        await self.call.write(draft_pb2.ProposeStreamRequest(cancel=message))

    async def release(self) -> None:
        await self.call.write(draft_pb2.ProposeStreamRequest(release=common_pb2.ReleaseMessage()))

    async def reply(self) -> Reply:
        async with asyncio.timeout(PATIENCE_S):
            message = await self.call.read()
        assert message is not grpc.aio.EOF, "the stream ended"
        return message.response

    async def error(self) -> tuple[int, grpc.StatusCode, str]:
        """The next reply's id, and the code and the reason of the error that it carries."""
        reply = await self.reply()
        assert reply.WhichOneof("outcome") == "error"
        error = error_from_status(reply.error)
        return reply.request_id, error.code, error.reason

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended: the code, and the reason of an error."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                assert await self.call.read() is grpc.aio.EOF
            except grpc.aio.AioRpcError as error:
                return error.code(), error_from_rpc(error).reason
            return await self.call.code(), ""


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[tuple[FrameServer, StreamApplication, grpc.aio.Channel]]:
    application = StreamApplication(service)
    async with (
        FrameServer(ServerSettings(drain_timeout_s=PATIENCE_S), application) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield server, application, channel


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def channel(service: Service) -> AsyncIterator[grpc.aio.Channel]:
    async with serving(service) as (_, _, channel):
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> draft_pb2_grpc.DraftServiceStub:
    return draft_pb2_grpc.DraftServiceStub(channel)


async def test_requests_of_a_stream_are_answered_by_their_id(
    service: Service, stub: draft_pb2_grpc.DraftServiceStub
) -> None:
    client = Client(stub)
    for request_id in (1, 2, 7):
        await client.send(request_id)
        await soon(service.has_started(request_id))
        reply = service.finish(request_id)
        assert await client.reply() == reply


async def test_a_stream_goes_on_after_errors(service: Service, stub: draft_pb2_grpc.DraftServiceStub) -> None:
    client = Client(stub)
    for request_id, error, expected in (
        (
            1,
            ServiceError(grpc.StatusCode.OUT_OF_RANGE, "DRAFT_TOO_LONG", "too long"),
            ("OUT_OF_RANGE", "DRAFT_TOO_LONG"),
        ),
        (2, ZeroDivisionError("a defect"), ("INTERNAL", "INTERNAL")),
    ):
        await client.send(request_id)
        await soon(service.has_started(request_id))
        service.fail(request_id, error)
        answered, code, reason = await client.error()
        assert (answered, code.name, reason) == (request_id, *expected)
    await client.send(3)
    await soon(lambda: 3 in service.started)
    reply = service.finish(3)
    assert await client.reply() == reply


async def test_a_request_on_a_stream_supersedes_the_one_before(
    service: Service, stub: draft_pb2_grpc.DraftServiceStub
) -> None:
    client = Client(stub)
    await client.send(1)
    await soon(lambda: service.started == [1])
    await client.send(2)
    assert await client.error() == (1, *SUPERSEDED)
    await client.send(1)
    assert await client.error() == (1, *SUPERSEDED)
    await soon(lambda: service.started == [1, 2])
    reply = service.finish(2)
    assert await client.reply() == reply


async def test_unary_calls_and_streams_share_a_session(service: Service, stub: draft_pb2_grpc.DraftServiceStub) -> None:
    client = Client(stub)
    await client.send(1)
    await soon(lambda: service.started == [1])
    retry = asyncio.ensure_future(_unary(stub, 1))
    await soon(lambda: _num_waiting(service) == 2)
    reply = service.finish(1)
    assert await client.reply() == reply
    assert await retry == reply
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await _unary(stub, 0)
    assert (info.value.code(), error_from_rpc(info.value).reason) == SUPERSEDED


async def _unary(stub: draft_pb2_grpc.DraftServiceStub, request_id: int) -> Reply:
    reply: Reply = await stub.Propose(request(request_id), timeout=PATIENCE_S)
    return reply


def _num_waiting(service: Service) -> int:
    return service.exchange._requests["a"].num_waiting


async def test_a_stream_takes_cancel(service: Service, stub: draft_pb2_grpc.DraftServiceStub) -> None:
    client = Client(stub)
    await client.send(4)
    await client.cancel(4)
    assert await client.error() == (4, *CANCELLED)
    assert service.cancelled == [4]
    await client.send(5)
    await soon(lambda: 5 in service.started)
    reply = service.finish(5)
    assert await client.reply() == reply


async def test_a_stream_takes_release(service: Service, stub: draft_pb2_grpc.DraftServiceStub) -> None:
    client = Client(stub)
    await client.send(4)
    await soon(lambda: service.started == [4])
    await client.release()
    assert await client.error() == (4, *CANCELLED)
    assert service.forgotten == ["a"]
    await client.send(1)
    await soon(lambda: 1 in service.started)
    reply = service.finish(1)
    assert await client.reply() == reply


async def test_cancel_and_release_before_any_request_do_nothing(
    service: Service, stub: draft_pb2_grpc.DraftServiceStub
) -> None:
    client = Client(stub)
    await client.cancel(1)
    await client.release()
    await client.send(1)
    await soon(lambda: 1 in service.started)
    reply = service.finish(1)
    assert await client.reply() == reply


async def test_a_stream_carries_one_session(service: Service, stub: draft_pb2_grpc.DraftServiceStub) -> None:
    client, other = Client(stub), Client(stub)
    await client.send(1, "a")
    await soon(lambda: service.started == [1])
    await client.send(2, "b")
    assert await client.end() == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SESSION")
    # What was under way on it has lost its caller.
    await soon(lambda: service.cancelled == [1])
    await other.send(3, "c")
    await soon(lambda: 3 in service.started)
    reply = service.finish(3)
    assert await other.reply() == reply


async def test_an_empty_message_ends_the_stream(stub: draft_pb2_grpc.DraftServiceStub) -> None:
    client = Client(stub)
    await client.call.write(draft_pb2.ProposeStreamRequest())
    assert await client.end() == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_bad_session_ids_are_refused_in_a_reply(stub: draft_pb2_grpc.DraftServiceStub) -> None:
    client = Client(stub)
    await client.send(1, "é")
    assert await client.error() == (1, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SESSION")


async def test_a_client_that_vanishes_cancels_its_work(service: Service, stub: draft_pb2_grpc.DraftServiceStub) -> None:
    client = Client(stub)
    await client.send(1)
    await soon(lambda: service.started == [1])
    client.call.cancel()
    await soon(lambda: service.cancelled == [1])
    # The session can be taken up on another stream.
    again = Client(stub)
    await again.send(1)
    await soon(lambda: service.started == [1, 1])
    reply = service.finish(1)
    assert await again.reply() == reply


async def test_a_client_that_has_said_everything_still_gets_its_answer(
    service: Service, stub: draft_pb2_grpc.DraftServiceStub
) -> None:
    client = Client(stub)
    await client.send(1)
    await client.call.done_writing()
    await soon(lambda: service.started == [1])
    reply = service.finish(1)
    assert await client.reply() == reply
    assert await client.end() == (grpc.StatusCode.OK, "")


async def test_a_server_that_stops_answers_and_ends_its_streams(service: Service) -> None:
    async with serving(service) as (server, _, channel):
        stub = draft_pb2_grpc.DraftServiceStub(channel)
        client, idle = Client(stub), Client(stub)
        await client.send(1, "a")
        await idle.release()
        await soon(lambda: service.started == [1] and "" in service.forgotten)
        stopping = asyncio.create_task(server.stop())
        assert await idle.end() == (grpc.StatusCode.OK, "")
        reply = service.finish(1)
        assert await client.reply() == reply
        assert await client.end() == (grpc.StatusCode.OK, "")
        await stopping


async def test_a_stream_that_nobody_reads_is_not_read_either(service: Service) -> None:
    num_requests = 100
    behind: list[int] = []
    num_sent = 0

    def wrap(reply: Reply) -> Any:
        nonlocal num_sent
        num_sent += 1
        behind.append(len(service.started) - num_sent)
        # More than fits into the buffers on the way.
        reply.error.message = "x" * 300_000
        return draft_pb2.ProposeStreamResponse(response=reply)

    async def answer(request: Request) -> Reply:
        service.started.append(request.request_id)
        return Reply(request_id=request.request_id)

    service.exchange = Exchange(answer, _refuse, service.forgotten.append)
    async with serving(service) as (_, application, channel):
        application.wrap = wrap
        stub = draft_pb2_grpc.DraftServiceStub(channel)
        client = Client(stub)
        for number in range(num_requests):
            await client.send(number)
        await soon(lambda: len(service.started) > MAX_UNSENT_ANSWERS)
        # Others are served meanwhile.
        assert (await stub.Propose(request(1, "b"), timeout=PATIENCE_S)).request_id == 1
        num_answered = 0
        while num_answered < num_requests:
            await client.reply()
            num_answered += 1
        # The request of the other session counts as one that is never sent on the stream.
        assert max(behind) <= MAX_UNSENT_ANSWERS + 1
