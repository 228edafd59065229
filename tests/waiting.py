"""Waiting for a state, without guessing how long it takes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

# Long enough for a busy machine. Nothing waits for so long unless something is broken.
PATIENCE_S = 60.0
_PAUSE_S = 0.002

ResultT = TypeVar("ResultT")


def eventually(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Return once the condition holds. Raises TimeoutError when it never does."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError("the awaited state never came")
        time.sleep(_PAUSE_S)


async def soon(condition: Callable[[], object]) -> None:
    """`eventually`, while the event loop goes on."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(_PAUSE_S)


async def while_going_on(awaited: Awaitable[ResultT], progress: Callable[[], int]) -> ResultT:
    """Return what much work comes to, however long it takes. Raises TimeoutError when there is no progress any more."""
    task = asyncio.ensure_future(awaited)
    before: int | None = None
    while not task.done() and before != (now := progress()):
        before = now
        await asyncio.wait({task}, timeout=PATIENCE_S)
    if not task.done():
        task.cancel()
        raise TimeoutError("nothing went on any more")
    return await task
