"""A stream without gRPC: when messages arrive, in which order, and how it ends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from orchestrator.simulation.clock import Clock, run_virtual
from orchestrator.simulation.connection import Call, Door, Link
from services.frame.rpc.call_status import CallStatus


async def echo(context: Any) -> None:
    """Answer every message with itself."""
    while (message := await context.read()) is not grpc.aio.EOF:
        await context.write(message)


def received(link: Link, use: Callable[[Call], Awaitable[None]]) -> list[tuple[Any, float]]:
    """Return what comes back while a caller uses a stream, and when."""

    async def main(clock: Clock) -> list[tuple[Any, float]]:
        begin_s = clock.read()
        call = Call(link, echo)
        user = asyncio.ensure_future(use(call))
        found = [(message, round(clock.read() - begin_s, 6)) async for message in call]
        await user
        return found

    return run_virtual(main)


def test_a_message_takes_half_a_round_trip_each_way() -> None:
    async def use(call: Call) -> None:
        await call.write("a")
        await asyncio.sleep(1)
        await call.write("b")
        await call.done_writing()

    assert received(Link(0.01), use) == [("a", 0.01), ("b", 1.01)]


def test_what_follows_a_late_message_is_late_as_well() -> None:
    async def use(call: Call) -> None:
        for message in "abc":
            await call.write(message)
            await asyncio.sleep(0.1)
        await call.done_writing()

    late = Link(0.01, lambda num_sent: 0.5 * (num_sent == 1))
    assert received(late, use) == [("a", 0.01), ("b", 0.61), ("c", 0.61)]


def test_streams_end_where_a_service_goes_away_and_none_begins_before_it_is_back() -> None:
    async def main(clock: Clock) -> list[grpc.StatusCode | None]:
        door = Door(echo, Link(0.01))
        metadata = [("x-session-id", "7")]
        first = door.VerifyStream(metadata=metadata)
        first_status = CallStatus(first)
        door.close()
        assert [message async for message in first] == []
        with pytest.raises(asyncio.InvalidStateError):
            await first.write("a")
        error = await first_status.error()
        assert error is not None and error.code is grpc.StatusCode.UNAVAILABLE
        second = door.ProposeStream(metadata=metadata)
        assert [message async for message in second] == []
        door.reopen(echo)
        third = door.ProposeStream(metadata=metadata)
        await third.write("a")
        await third.done_writing()
        assert [message async for message in third] == ["a"]
        return [await call.code() for call in (first, second, third)]

    unavailable = grpc.StatusCode.UNAVAILABLE
    assert run_virtual(main) == [unavailable, unavailable, grpc.StatusCode.OK]


def test_a_service_hears_of_a_cancelled_stream() -> None:
    async def main(clock: Clock) -> float:
        ended = asyncio.Event()

        async def serve(context: Any) -> None:
            try:
                await echo(context)
            finally:
                ended.set()

        call = Call(Link(0.01), serve)
        await asyncio.sleep(1)
        begin_s = clock.read()
        call.cancel()
        await ended.wait()
        return round(clock.read() - begin_s, 6)

    assert run_virtual(main) == 0.005
