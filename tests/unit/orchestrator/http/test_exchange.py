"""Clients that read slowly or vanish, long prefills, and the end of the server in the middle of an answer."""

import asyncio

import grpc
import pytest

from orchestrator.http.exchange import stream
from services.frame.rpc.errors import ServiceError
from tests.unit.orchestrator.http.asgi import Exchange
from tests.unit.orchestrator.http.scripted_face import chunk, face, summary
from tests.waiting import PATIENCE_S, soon

PATH = "/v1/completions"
STREAM = {"prompt": "Hello", "stream": True}


async def never() -> None:
    await asyncio.Event().wait()


async def test_each_chunk_is_one_message() -> None:
    chunks = [chunk("Hello"), chunk(" world"), chunk("!")]
    async with face(lambda request: [*chunks, summary()]) as made:
        exchange = Exchange(PATH, STREAM)
        await exchange.run(made.app)
    start, *bodies = exchange.messages
    assert dict(start["headers"])[b"content-type"].startswith(b"text/event-stream")
    assert b"content-length" not in dict(start["headers"])
    assert [each["body"].count(b"data: ") for each in bodies] == [1, 1, 1, 1, 1]
    assert exchange.events[-1] == "[DONE]"
    assert exchange.is_complete


async def test_nothing_is_generated_ahead_of_a_slow_reader() -> None:
    room = asyncio.Event()
    told: list[int] = []

    async def note() -> None:
        told.append(len(told))

    async with face(lambda request: [chunk("Hello"), note, chunk("!"), note, summary()]) as made:
        exchange = Exchange(PATH, STREAM, on_send=lambda _: room.wait())
        answering = asyncio.create_task(exchange.run(made.app))
        await soon(lambda: made.service.num_active)
        for _ in range(20):
            await asyncio.sleep(0)
        assert told == []
        room.set()
        await asyncio.wait_for(answering, PATIENCE_S)
        assert told == [0, 1]


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("num", [1, 3])
async def test_a_client_that_vanishes_ends_its_generations(is_stream: bool, num: int) -> None:
    async with face(lambda request: [chunk("Hello"), never]) as made:
        exchange = Exchange(PATH, STREAM | {"stream": is_stream, "n": num})
        answering = asyncio.create_task(exchange.run(made.app))
        await soon(lambda: made.service.num_active == num)
        exchange.gone.set()
        await asyncio.wait_for(answering, PATIENCE_S)
        assert (made.service.num_active, made.service.num_cancelled) == (0, num)
        assert made.registry.num_under_way == 0


@pytest.mark.parametrize("has_begun", [True, False])
async def test_pings_keep_a_silent_answer_open(monkeypatch: pytest.MonkeyPatch, has_begun: bool) -> None:
    monkeypatch.setattr(stream, "PING_S", 0.001)
    exchange = Exchange(PATH, STREAM)

    async def until_pinged() -> None:
        await soon(lambda: exchange.content.count(": ping\n\n") >= 2)

    first = [chunk("Hello")] if has_begun else []
    async with face(lambda request: [*first, until_pinged, chunk("!"), summary()]) as made:
        await exchange.run(made.app)
    assert exchange.status == 200
    assert exchange.events[-1] == "[DONE]"
    assert exchange.messages[1]["body"].startswith(b"data: " if has_begun else b": ping")


async def test_an_error_after_a_ping_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_S", 0.001)
    exchange = Exchange(PATH, STREAM)

    async def until_pinged() -> None:
        await soon(lambda: exchange.messages)

    refusal = ServiceError(grpc.StatusCode.UNAVAILABLE, "TARGET_UNAVAILABLE", "away")
    async with face(lambda request: [until_pinged, refusal]) as made:
        await exchange.run(made.app)
    assert exchange.status == 200
    assert exchange.events[-1]["error"]["code"] == "target_unavailable"
    assert exchange.is_complete


async def test_an_answer_that_nobody_reads_is_cut() -> None:
    """What is buffered would wait for the reader for ever."""
    exchange = Exchange(PATH, STREAM)

    async def stall(_: Exchange) -> None:
        if len(exchange.messages) > 1:
            await never()

    exchange.on_send = stall
    unread = ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "UNREAD", "nothing was read")
    async with face(lambda request: [chunk("Hello"), unread]) as made:
        await asyncio.wait_for(exchange.run(made.app), PATIENCE_S)
    assert exchange.is_aborted
    assert len(exchange.messages) == 2


async def test_the_end_of_the_server_is_told_to_those_it_cuts_off() -> None:
    async with face(lambda request: [chunk("Hello"), never]) as made:
        exchange = Exchange(PATH, STREAM)
        answering = asyncio.create_task(exchange.run(made.app))
        await soon(lambda: len(exchange.messages) == 2)
        answering.cancel()
        await asyncio.wait_for(answering, PATIENCE_S)
        assert exchange.events[-1]["error"]["message"] == "the service is stopping"
        assert exchange.is_complete
        assert made.service.num_active == 0


async def test_whole_answers_that_it_cuts_off_are_refused() -> None:
    async with face(lambda request: [never]) as made:
        exchange = Exchange(PATH, {"prompt": "Hello"})
        answering = asyncio.create_task(exchange.run(made.app))
        await soon(lambda: made.service.num_active)
        answering.cancel()
        await asyncio.wait_for(answering, PATIENCE_S)
        assert exchange.status == 503
        assert made.service.num_active == 0


async def test_a_request_is_under_way_until_its_answer_ends() -> None:
    seen: list[int] = []
    async with face() as made:

        async def note() -> None:
            seen.append(made.registry.num_under_way)

        made.service.script = lambda request: [note, chunk("Hello"), summary()]
        for body in (STREAM, {"prompt": "Hello"}):
            await Exchange(PATH, body).run(made.app)
        assert seen == [1, 1]
        assert made.registry.num_under_way == 0


async def test_the_trace_of_the_client_goes_on() -> None:
    async with face() as made:
        await Exchange(PATH, STREAM).run(made.app)
        assert made.service.headers[0].traceparent == "00-1-2-01"


async def test_many_choices_take_no_more_slots_than_there_are() -> None:
    most: list[int] = []
    async with face() as made:

        async def note() -> None:
            await asyncio.sleep(0)
            most.append(made.service.num_active)

        made.service.script = lambda request: [note, chunk("Hello"), summary()]
        exchange = Exchange(PATH, {"prompt": "Hello", "n": 16})
        await exchange.run(made.app)
        assert exchange.status == 200
        assert max(most) == 4
