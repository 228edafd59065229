"""Streams that run at once, what is counted of them, and of the decodes that served them."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

# Between the beginnings of two streams, in seconds.
_BETWEEN_S = 0.02


class NoSteadyStateError(ValueError):
    """There was no time when all streams ran."""


class Chunk(NamedTuple):
    """Tokens of one stream that arrived together, and when, in seconds of `time.perf_counter`."""

    at_s: float
    num_tokens: int


@dataclass
class Stream:
    """What arrived of one stream. It has ended when all its tokens came; else it was cut off as another one ended."""

    chunks: list[Chunk] = field(default_factory=list)
    has_ended: bool = False
    on_chunk: Callable[[], object] = field(default=lambda: None, compare=False)

    def add(self, num_tokens: int) -> None:
        """So many tokens have arrived."""
        self.chunks.append(Chunk(time.perf_counter(), num_tokens))
        self.on_chunk()

    @property
    def num_tokens(self) -> int:
        """Tokens that arrived so far."""
        return sum(chunk.num_tokens for chunk in self.chunks)


class Window(NamedTuple):
    """A span of time, in seconds of `time.perf_counter`."""

    start_s: float
    end_s: float


class Decode(NamedTuple):
    """One decode of a service: when it ran, and the rows of each session in it."""

    start_s: float
    end_s: float
    sessions: Sequence[tuple[str, int]]
    is_verification: bool


async def run_together(asks: Sequence[Callable[[Stream], Awaitable[None]]], num_tokens: int) -> list[Stream]:
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


def measure(streams: Sequence[Stream]) -> dict[str, float]:
    """Return what was seen in the steady state: tokens per second of all streams together, and times in milliseconds.

    `chunk_ms` are the times between two chunks of a stream; `token_ms` are the same, divided by the tokens that came.
    """
    window = steady_window(streams)
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


def _gaps(stream: Stream, window: Window) -> Iterable[tuple[float, int]]:
    """Give the milliseconds before each chunk that came, like the one before it, in the window, and its tokens."""
    for earlier, later in zip(stream.chunks, stream.chunks[1:], strict=False):
        if window.start_s <= earlier.at_s and later.at_s <= window.end_s:
            yield (later.at_s - earlier.at_s) * 1e3, later.num_tokens


def _percentiles(name: str, values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"{name}_p{percent}": float(np.percentile(values, percent)) for percent in (50, 95)}


def read_decodes(lines: Iterable[str]) -> list[Decode]:
    """Read what a recording service wrote, one JSON object a line."""
    return [_decode(json.loads(line)) for line in lines]


def _decode(values: dict[str, Any]) -> Decode:
    sessions = [(str(name), int(num_rows)) for name, num_rows in values["sessions"]]
    return Decode(values["start_s"], values["end_s"], sessions, values["is_verification"])


def within(decodes: Iterable[Decode], window: Window) -> list[Decode]:
    """Return the decodes that lie in the window as a whole."""
    return [decode for decode in decodes if window.start_s <= decode.start_s and decode.end_s <= window.end_s]


def meeting(decodes: Iterable[Decode], window: Window) -> dict[str, Any]:
    """Say how many sessions met in the window's decodes with verifications: the mean, and how often how many.

    Raises NoSteadyStateError where there was no such decode.
    """
    verifying = [decode for decode in within(decodes, window) if decode.is_verification]
    if not verifying:
        raise NoSteadyStateError("no decode with a verification in the steady state: ask for more tokens")
    counts = Counter(len(decode.sessions) for decode in verifying)
    num_rows = sum(rows for decode in verifying for _, rows in decode.sessions)
    busy_s = sum(decode.end_s - decode.start_s for decode in verifying)
    return {
        "sessions_per_decode": sum(num * times for num, times in counts.items()) / len(verifying),
        "rows_per_decode": num_rows / len(verifying),
        "num_decodes": len(verifying),
        "decode_ms": busy_s / len(verifying) * 1e3,
        "decoding_share": busy_s / (window.end_s - window.start_s),
        "decodes_by_num_sessions": {str(num): counts[num] for num in sorted(counts)},
    }
