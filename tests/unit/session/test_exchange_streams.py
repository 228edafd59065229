"""Requests over streams and unary calls of a real server, which share their sessions."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from outrider.v1 import draft_pb2, draft_pb2_grpc
from services.frame.rpc.errors import ServiceError, error_from_rpc
from services.session.duplex import MAX_UNSENT_ANSWERS
from services.session.exchange import Exchange
from tests.unit.session.exchanging import CANCELLED, SUPERSEDED, Reply, Request, Service, refuse, request
from tests.unit.session.streaming import Client, serving
from tests.waiting import PATIENCE_S, soon


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
    await client.release()
    await client.call.done_writing()
    assert await client.end() == (grpc.StatusCode.OK, "")
    assert service.forgotten == ["a", "a"]


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
    client = Client(stub)
    await client.send(1, "a")
    await soon(lambda: service.started == [1])
    await client.send(2, "b")
    assert await client.error() == (2, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SESSION")
    # What is under way on it goes on.
    reply = service.finish(1)
    assert await client.reply() == reply
    assert service.started == [1]


async def test_an_empty_message_ends_the_stream(stub: draft_pb2_grpc.DraftServiceStub) -> None:
    client = Client(stub)
    with contextlib.suppress(grpc.aio.AioRpcError):  # it may fail as the stream ends
        await client.call.write(draft_pb2.ProposeStreamRequest())
    assert await client.end() == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_bad_session_ids_arerefused_in_a_reply(stub: draft_pb2_grpc.DraftServiceStub) -> None:
    client = Client(stub)
    await client.send(1, "é")
    assert await client.error() == (1, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SESSION")


async def test_a_client_that_vanishes_cancels_its_work(service: Service, stub: draft_pb2_grpc.DraftServiceStub) -> None:
    client = Client(stub)
    await client.send(1)
    await soon(lambda: service.started == [1])
    client.call.cancel()
    await soon(lambda: service.cancelled == [1])
    # A caller that was cut off while it wrote cannot release its session any more.
    await soon(lambda: service.forgotten == ["a"])
    # The session can be taken up on another stream.
    again = Client(stub)
    await again.send(1)
    await soon(lambda: service.started == [1, 1])
    reply = service.finish(1)
    assert await again.reply() == reply


async def test_a_stream_that_ends_between_two_requests_lets_its_session_go(
    service: Service, stub: draft_pb2_grpc.DraftServiceStub
) -> None:
    client = Client(stub)
    await client.send(1)
    await soon(lambda: service.started == [1])
    service.finish(1)
    await client.reply()
    client.call.cancel()
    await soon(lambda: service.forgotten == ["a"])


async def test_a_session_that_goes_on_elsewhere_is_kept_when_its_old_stream_breaks(
    service: Service, stub: draft_pb2_grpc.DraftServiceStub
) -> None:
    old, new = Client(stub), Client(stub)
    await old.send(1)
    await soon(lambda: service.started == [1])
    await new.send(2)
    await soon(lambda: service.started == [1, 2])
    old.call.cancel()
    # The server hears of it by the time that it has served another stream that was begun after that.
    other = Client(stub)
    await other.send(3, "b")
    await soon(lambda: 3 in service.started)
    other.call.cancel()
    await soon(lambda: bool(service.forgotten))
    assert service.forgotten == ["b"]


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
    await soon(lambda: service.forgotten == ["a"])


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

    service.exchange = Exchange(answer, refuse, service.forgotten.append)
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
