"""Streams that run at once, and what is counted of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

# Between the beginnings of two streams, in seconds.
_BETWEEN_S = 0.02
_PERCENTS = (50, 95, 99)


class NoSteadyStateError(ValueError):
    """There was no time when all streams ran."""


class Chunk(NamedTuple):
    """Tokens of one stream that arrived together, and when, in seconds of `time.perf_counter`."""

    at_s: float
    num_tokens: int


@dataclass
class Stream:
    """What arrived of one stream. It has ended when all its tokens came; else it was cut off as another one ended.

    `summary` is what the server says of the stream at its end, in the words of its system.
    """

    chunks: list[Chunk] = field(default_factory=list)
    has_ended: bool = False
    on_chunk: Callable[[], object] = field(default=lambda: None, compare=False)
    asked_s: float = 0.0
    summary: dict[str, Any] = field(default_factory=dict)

    def add(self, num_tokens: int) -> None:
        """So many tokens have arrived."""
        self.chunks.append(Chunk(time.perf_counter(), num_tokens))
        self.on_chunk()

    @property
    def num_tokens(self) -> int:
        """Tokens that arrived so far."""
        return sum(chunk.num_tokens for chunk in self.chunks)


# Asks for one stream, and adds what arrives to it until it ends.
Ask = Callable[[Stream], Awaitable[None]]


class Window(NamedTuple):
    """A span of time, in seconds of `time.perf_counter`."""

    start_s: float
    end_s: float


async def run_together(asks: Sequence[Ask], num_tokens: int) -> list[Stream]:
    """Run all until the first one has had so many tokens since all have begun, or has ended; then cut off the others.

    They begin in order, so that each finds the slot again that it had last time, and its prompt there. Raises what the
    first one to end raised.
    """
    has_news = asyncio.Event()
    streams = [Stream(on_chunk=has_news.set) for _ in asks]
    tasks: list[asyncio.Future[None]] = []

    async def until(is_so: Callable[[], bool]) -> None:
        while not is_so() and not any(task.done() for task in tasks):
            has_news.clear()
            await has_news.wait()

    try:
        for ask, stream in zip(asks, streams, strict=True):
            stream.asked_s = time.perf_counter()
            tasks.append(asyncio.ensure_future(ask(stream)))
            tasks[-1].add_done_callback(lambda _: has_news.set())
            await asyncio.sleep(_BETWEEN_S)
        await until(lambda: all(stream.chunks for stream in streams))
        ends = [stream.num_tokens + num_tokens for stream in streams]
        await until(lambda: any(stream.num_tokens >= end for stream, end in zip(streams, ends, strict=True)))
        for task, stream, end in zip(tasks, streams, ends, strict=True):
            if task.done():
                task.result()
            stream.has_ended = task.done() or stream.num_tokens >= end
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return streams


async def run_to_end(asks: Sequence[Ask], delays_s: Sequence[float] = ()) -> list[Stream]:
    """Run all to their ends, each after its delay; all at once where there are no delays. Raises what one raised."""
    streams = [Stream() for _ in asks]

    async def run(ask: Ask, stream: Stream, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        stream.asked_s = time.perf_counter()
        await ask(stream)
        stream.has_ended = True

    delays_s = delays_s or [number * _BETWEEN_S for number in range(len(asks))]
    tasks = [asyncio.ensure_future(run(*each)) for each in zip(asks, streams, delays_s, strict=True)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return streams


def steady_window(streams: Sequence[Stream]) -> Window:
    """Return the time while all streams ran: from when each of them has its first token until the first one ends.

    Raises NoSteadyStateError where one ended before another began.
    """
    if not all(stream.chunks for stream in streams) or not any(stream.has_ended for stream in streams):
        raise NoSteadyStateError("a stream ended before every other one had its first token: ask for more tokens")
    start_s = max(stream.chunks[0].at_s for stream in streams)
    end_s = min(stream.chunks[-1].at_s for stream in streams if stream.has_ended)
    if end_s <= start_s:
        raise NoSteadyStateError("a stream ended before every other one had its first token: ask for more tokens")
    return Window(start_s, end_s)


def whole_window(streams: Sequence[Stream]) -> Window:
    """Return the time from the first question to the last token.

    Raises NoSteadyStateError where no token came.
    """
    ends_s = [stream.chunks[-1].at_s for stream in streams if stream.chunks]
    if not ends_s:
        raise NoSteadyStateError("no token came")
    return Window(min(stream.asked_s for stream in streams), max(ends_s))


def measure(streams: Sequence[Stream], window: Window | None = None) -> dict[str, float]:
    """Return what was seen in a window, else in the steady state: tokens per second of all streams, and milliseconds.

    `chunk_ms` are the times between two chunks of a stream; `token_ms` are the same, divided by the tokens that came.
    """
    window = window or steady_window(streams)
    arrived = [chunk for stream in streams for chunk in stream.chunks if window.start_s < chunk.at_s <= window.end_s]
    num_tokens = sum(chunk.num_tokens for chunk in arrived)
    gaps = [gap for stream in streams for gap in _gaps(stream, window)]
    chunk_ms = [gap_ms for gap_ms, _ in gaps]
    token_ms = [gap_ms / num for gap_ms, num in gaps for _ in range(num)]
    window_s = window.end_s - window.start_s
    return {
        "tokens_per_s": num_tokens / window_s,
        "num_tokens": num_tokens,
        "window_s": window_s,
        "tokens_per_chunk": num_tokens / len(arrived),
        **_percentiles("chunk_ms", chunk_ms),
        **_percentiles("token_ms", token_ms),
    }


def first_token_ms(streams: Iterable[Stream]) -> dict[str, float]:
    """Return percentiles of the milliseconds from the question to the first token."""
    waits_ms = [(stream.chunks[0].at_s - stream.asked_s) * 1e3 for stream in streams if stream.chunks]
    return _percentiles("first_token_ms", waits_ms)


def decode_rate(stream: Stream) -> float | None:
    """Return the tokens per second of one stream after its first chunk; None where there is no more than that."""
    if len(stream.chunks) < 2 or (took_s := stream.chunks[-1].at_s - stream.chunks[0].at_s) <= 0:
        return None
    return (stream.num_tokens - stream.chunks[0].num_tokens) / took_s


def _gaps(stream: Stream, window: Window) -> Iterable[tuple[float, int]]:
    """Give the milliseconds before each chunk that came, like the one before it, in the window, and its tokens."""
    for earlier, later in zip(stream.chunks, stream.chunks[1:], strict=False):
        if window.start_s <= earlier.at_s and later.at_s <= window.end_s:
            yield (later.at_s - earlier.at_s) * 1e3, later.num_tokens


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"{name}_p{percent}": float(np.percentile(values, percent)) for percent in _PERCENTS}
