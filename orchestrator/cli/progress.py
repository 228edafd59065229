"""What a command waits for, on stderr: one line that changes on a terminal, plain lines now and then elsewhere.

There they are written when something else is waited for, and every half minute.
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.status import Status
from rich.text import Text

from services.frame.program.output import say
from services.frame.program.printable import one_line
from services.frame.program.waiting import SAY_AFTER_S, SAY_AGAIN_S, saying

MessageT = TypeVar("MessageT")
_SHOWN_AFTER_S = 0.5
_REFRESH_S = 1.0
# Within a text a pause is longer before it is remarkable.
_PAUSE_S = 8.0


@asynccontextmanager
async def waiting(what: str | Callable[[], Awaitable[str]]) -> AsyncIterator[None]:
    """Say within the block, where it takes long, what is waited for: `what`, or what it returns at the moment."""

    async def describe() -> str:
        return what if isinstance(what, str) else await what()

    console = Console(stderr=True, highlight=False)
    with ExitStack() as shown:
        status: Status | None = None

        async def show(waited_s: float) -> None:
            nonlocal status
            line = Text(one_line(f"waiting for {await describe()}, {waited_s:.0f} s"))
            if status is None:
                # What is written to sys.stderr meanwhile goes above it.
                status = shown.enter_context(console.status(line))
            status.update(line)

        said, said_s = "", 0.0

        async def write(waited_s: float) -> None:
            nonlocal said, said_s
            now = await describe()
            if now != said or waited_s - said_s >= SAY_AGAIN_S:
                said, said_s = now, waited_s
                _say(now, waited_s)

        if console.is_terminal and not console.is_dumb_terminal:
            speaker = saying(show, _SHOWN_AFTER_S, _REFRESH_S)
        else:
            speaker = saying(write, again_s=SAY_AFTER_S)
        async with speaker:
            yield


@asynccontextmanager
async def showing(describe: Callable[[float], str]) -> AsyncIterator[None]:
    """Show within the block, on a terminal only, a line of what is under way, by the seconds since the block began.

    It is written once a second and nothing moves in between, so that it takes no time from what is measured.
    """
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    # What is written to sys.stderr meanwhile goes above it.
    with Live(Text(), console=console, auto_refresh=False, transient=True) as line:

        async def show(since_s: float) -> None:
            line.update(Text(one_line(describe(since_s)), no_wrap=True, overflow="ellipsis"), refresh=True)

        async with saying(show, _SHOWN_AFTER_S, _REFRESH_S):
            yield


async def watched(messages: AsyncIterator[MessageT], what: str) -> AsyncIterator[MessageT]:
    """Yield the messages; say that `what` is waited for where the first one, or another one, takes long."""

    async def complain(waited_s: float) -> None:
        # The text has stopped in the middle of a line.
        print(file=sys.stderr)
        _say(what, waited_s)

    async with waiting(what):
        message = await anext(messages, None)
    while message is not None:
        yield message
        async with saying(complain, _PAUSE_S):
            message = await anext(messages, None)


def _say(what: str, waited_s: float) -> None:
    say("outrider", f"waiting for {what}, for {waited_s:.0f} s so far")
