"""A source that runs ahead of who takes from it."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from orchestrator.generation.service import running_ahead


class Source:
    """Counts up to `length`, then raises `error`, if any."""

    def __init__(self, length: int, error: Exception | None = None) -> None:
        self.num_made = 0
        self.is_closed = False
        self._length = length
        self._error = error

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self._length):
                await asyncio.sleep(0)
                self.num_made += 1
                yield number
            if self._error is not None:
                raise self._error
        finally:
            await asyncio.sleep(0)
            self.is_closed = True


async def _settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


async def test_all_items_come_in_order() -> None:
    async with running_ahead(Source(20).items(), 3) as items:
        assert [item async for item in items] == list(range(20))


async def test_the_source_stops_where_nobody_takes() -> None:
    source = Source(20)
    async with running_ahead(source.items(), 3) as items:
        await _settle()
        # Three wait, and one more was made to find out that there is no room.
        assert source.num_made == 4
        assert await anext(items) == 0
        await _settle()
        assert source.num_made == 5


async def test_an_error_comes_after_what_was_made_before() -> None:
    source = Source(2, ZeroDivisionError("a defect"))
    taken = []
    async with running_ahead(source.items(), 3) as items:
        await _settle()
        with pytest.raises(ZeroDivisionError):
            async for item in items:
                taken.append(item)
    assert taken == [0, 1]


async def test_leaving_ends_the_source() -> None:
    source = Source(20)
    async with running_ahead(source.items(), 3) as items:
        assert await anext(items) == 0
    assert source.is_closed
    assert source.num_made < 20


async def test_being_cancelled_ends_the_source() -> None:
    source = Source(20)

    async def take_one_and_wait() -> None:
        async with running_ahead(source.items(), 3) as items:
            await anext(items)
            await asyncio.Event().wait()

    task = asyncio.create_task(take_one_and_wait())
    await _settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.is_closed
