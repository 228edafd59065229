"""Streams that run at once: the steady state, and what is counted of it."""

import asyncio

import pytest

from orchestrator.bench.load.streams import (
    Chunk,
    NoSteadyStateError,
    Stream,
    Window,
    decode_rate,
    first_token_ms,
    measure,
    run_to_end,
    run_together,
    steady_window,
    whole_window,
)


def stream(*chunks: tuple[float, int], has_ended: bool = False) -> Stream:
    return Stream([Chunk(*chunk) for chunk in chunks], has_ended)


def test_the_steady_state_is_from_the_last_first_token_to_the_first_end() -> None:
    early = stream((1.0, 1), (2.0, 1), (5.0, 1), has_ended=True)
    late = stream((3.0, 1), (4.0, 1), (4.5, 1))
    assert steady_window([early, late]) == Window(3.0, 5.0)


def test_a_stream_that_was_cut_off_does_not_end_the_steady_state() -> None:
    ended = stream((1.0, 1), (4.0, 1), has_ended=True)
    assert steady_window([ended, stream((1.0, 1), (2.0, 1))]) == Window(1.0, 4.0)


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param([stream((1.0, 1), (2.0, 1), has_ended=True), stream()], id="one never began"),
        pytest.param([stream((1.0, 1), (2.0, 1), has_ended=True), stream((2.0, 1), (3.0, 1))], id="one began too late"),
        pytest.param([stream((1.0, 1), (2.0, 1))], id="none ended"),
        pytest.param([stream((1.0, 4), has_ended=True)], id="all came at once"),
    ],
)
def test_without_a_steady_state_nothing_is_measured(streams: list[Stream]) -> None:
    with pytest.raises(NoSteadyStateError):
        measure(streams)


async def test_streams_are_cut_off_when_the_first_one_ends() -> None:
    is_cut_off = False

    async def short(stream: Stream) -> None:
        stream.add(1)

    async def endless(stream: Stream) -> None:
        nonlocal is_cut_off
        stream.add(1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            is_cut_off = True
            raise

    streams = await run_together([endless, short], 10)
    assert is_cut_off
    assert [(stream.num_tokens, stream.has_ended) for stream in streams] == [(1, False), (1, True)]


async def test_streams_are_cut_off_after_so_many_tokens_since_all_have_begun() -> None:
    begun: list[Stream] = []
    ahead = 0

    async def early(stream: Stream) -> None:
        begun.append(stream)
        while True:
            stream.add(2)
            await asyncio.sleep(0)

    async def late(stream: Stream) -> None:
        nonlocal ahead
        ahead = begun[0].num_tokens
        stream.add(1)
        await asyncio.Event().wait()

    first, second = await run_together([early, late], 1000)
    assert (first.has_ended, second.has_ended) == (True, False)
    assert first.num_tokens >= ahead + 1000


async def test_what_goes_wrong_with_a_stream_is_raised() -> None:
    async def failing(stream: Stream) -> None:
        raise ConnectionError("gone")

    async def endless(stream: Stream) -> None:
        stream.add(1)
        await asyncio.Event().wait()

    with pytest.raises(ConnectionError, match="gone"):
        await run_together([endless, failing], 1)


def test_tokens_are_counted_in_the_steady_state_only() -> None:
    first = stream((0.0, 1), (1.0, 4), (2.0, 4), (3.0, 2), has_ended=True)
    second = stream((1.0, 1), (2.5, 3), (3.5, 4))
    figures = measure([first, second])
    assert figures["window_s"] == 2.0
    assert figures["num_tokens"] == 4 + 2 + 3
    assert figures["tokens_per_s"] == 4.5
    assert figures["tokens_per_chunk"] == 3.0


def test_times_between_chunks_are_each_streams_own() -> None:
    first = stream((0.0, 1), (1.0, 1), (3.0, 2), has_ended=True)
    second = stream((0.5, 1), (0.75, 1))
    figures = measure([first, second])
    # 2 s for two tokens; what lies partly before the steady state is left out.
    assert figures["chunk_ms_p50"] == pytest.approx(1125.0)
    assert figures["token_ms_p50"] == pytest.approx(1000.0)


def test_percentiles_go_up_to_the_slowest_of_a_hundred() -> None:
    figures = measure([stream(*((number / 10, 1) for number in range(102)), has_ended=True)])
    assert figures["chunk_ms_p99"] == pytest.approx(100.0)
    assert figures["token_ms_p95"] == pytest.approx(100.0)


async def test_all_streams_run_to_their_ends() -> None:
    async def ask(stream: Stream) -> None:
        for _ in range(3):
            stream.add(2)
            await asyncio.sleep(0)

    streams = await run_to_end([ask, ask], [0.0, 0.0])
    assert [(stream.num_tokens, stream.has_ended) for stream in streams] == [(6, True), (6, True)]


async def test_what_goes_wrong_with_one_stream_ends_the_others() -> None:
    is_cut_off = False

    async def failing(stream: Stream) -> None:
        raise ConnectionError("gone")

    async def endless(stream: Stream) -> None:
        nonlocal is_cut_off
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            is_cut_off = True
            raise

    with pytest.raises(ConnectionError, match="gone"):
        await run_to_end([endless, failing], [0.0, 0.0])
    assert is_cut_off


def test_the_whole_time_begins_with_the_first_question() -> None:
    early, late = stream((2.0, 1), (3.0, 1)), stream((4.0, 1), (9.0, 1))
    early.asked_s, late.asked_s = 1.0, 3.5
    assert whole_window([early, late]) == Window(1.0, 9.0)
    assert first_token_ms([early, late])["first_token_ms_p50"] == pytest.approx(750.0)
    with pytest.raises(NoSteadyStateError):
        whole_window([stream()])


def test_the_rate_of_decoding_leaves_the_first_chunk_out() -> None:
    assert decode_rate(stream((1.0, 4), (2.0, 3), (3.0, 3))) == 3.0
    assert decode_rate(stream((1.0, 4))) is None
