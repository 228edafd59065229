"""Retries, supersession, cancellation and release of requests, whatever carries them."""

import asyncio

import grpc
import pytest

from services.frame.rpc.errors import ServiceError
from services.session import exchange as exchange_module
from services.session.exchange import checked_session_id
from tests.unit.session.exchanging import CANCELLED, SUPERSEDED, Reply, Service
from tests.waiting import soon


async def _error(task: asyncio.Task[Reply]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(ServiceError) as info:
        await task
    return info.value.code, info.value.reason


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


async def test_a_request_under_way_keeps_no_answers_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "MAX_REMEMBERED_SESSIONS", 2)
    service = Service()
    slow = await service.ask(0, "slow")
    for number in range(1, 9):
        task = await service.ask(number, f"session {number}")
        service.finish(number)
        await task
    assert len(service.exchange._requests) <= 3
    reply = service.finish(0)
    assert await slow is reply


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
