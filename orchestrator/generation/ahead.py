"""Going on while the last item is still being used."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

ItemT = TypeVar("ItemT")


@asynccontextmanager
async def running_ahead(source: AsyncGenerator[ItemT, None], max_ahead: int) -> AsyncIterator[AsyncIterator[ItemT]]:
    """Give the items of `source`, which goes on by itself until `max_ahead` of them wait to be taken.

    An error of the source comes after the items that came before it. Leaving the context ends the source.
    """
    items: asyncio.Queue[ItemT | None] = asyncio.Queue()  # None is the end
    room = asyncio.Semaphore(max_ahead)

    async def fill() -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await room.acquire()
                    items.put_nowait(item)
        finally:
            items.put_nowait(None)

    async def take() -> AsyncIterator[ItemT]:
        while (item := await items.get()) is not None:
            room.release()
            yield item
        await filling

    filling = asyncio.create_task(fill())
    try:
        yield take()
    finally:
        filling.cancel()
        await asyncio.wait([filling])
