"""Signals that end a command: the first one lets what is under way end in order, the next one hurries."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, NoReturn, TypeVar

ResultT = TypeVar("ResultT")
# What SIGINT does to the running command; None where it does nothing.
_cancel: ContextVar[Callable[[int], None] | None] = ContextVar("cancel", default=None)


class Interrupted(BaseException):
    """A signal has ended the command. `code` is the exit code that shells give to that."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


def run(main: Coroutine[Any, Any, ResultT]) -> ResultT:
    """`asyncio.run`, but SIGINT, SIGTERM and SIGHUP cancel `main`, each of them once more.

    Raises Interrupted once it has ended.
    """
    return asyncio.run(_run(main))


async def until_interrupted(part: Coroutine[Any, Any, ResultT]) -> ResultT | None:
    """Return the result of a part of what `run` runs; None where SIGINT has ended it, and nothing but it."""
    loop, task, cancel = asyncio.get_running_loop(), asyncio.ensure_future(part), _cancel.get()
    is_interrupted = False

    def interrupt() -> None:
        nonlocal is_interrupted
        is_interrupted = True
        task.cancel()

    if cancel is not None:
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if not is_interrupted:
            raise
        return None
    finally:
        if cancel is not None:
            loop.add_signal_handler(signal.SIGINT, cancel, signal.SIGINT)


def end_line() -> None:
    """End the line of a terminal in which a text may have stopped, and which shows the ^C of whoever stopped it."""
    if sys.stdout.isatty():
        print()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise Interrupted, as SIGINT raises KeyboardInterrupt, where no event loop runs.

    Process 1 of a container would not be ended by them otherwise.
    """

    def interrupt(number: int, _: FrameType | None) -> NoReturn:
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in _heeded() if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _run(main: Coroutine[Any, Any, ResultT]) -> ResultT:
    received: list[int] = []

    def cancel(number: int) -> None:
        received.append(number)
        task.cancel()
        if len(received) == 1:
            # Now: what is waited for until all has stopped is said on a line of its own.
            end_line()

    if signal.SIGINT in _heeded():
        _cancel.set(cancel)
    task = asyncio.ensure_future(main)
    for number in _heeded():
        asyncio.get_running_loop().add_signal_handler(number, cancel, number)
    try:
        return await task
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received[0]) from None
        raise


def _heeded() -> list[signal.Signals]:
    """Return the signals that end us: not those that are ignored, as SIGHUP is below nohup."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
