"""Saying what is waited for: a program that says nothing looks like one that hangs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

SAY_AFTER_S = 2.0
SAY_AGAIN_S = 30.0


@asynccontextmanager
async def saying(
    say: Callable[[float], Awaitable[None]], after_s: float = SAY_AFTER_S, again_s: float = SAY_AGAIN_S
) -> AsyncIterator[None]:
    """Call `say` with the seconds since the block began: after `after_s`, and then every `again_s` until it ends."""
    repeating = asyncio.create_task(_repeat(say, after_s, again_s))
    try:
        yield
    finally:
        repeating.cancel()
        await asyncio.wait({repeating})


async def _repeat(say: Callable[[float], Awaitable[None]], after_s: float, again_s: float) -> None:
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    await asyncio.sleep(after_s)
    while True:
        await say(loop.time() - started_s)
        await asyncio.sleep(again_s)
