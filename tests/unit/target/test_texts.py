"""Long texts: off the event loop, with a stack that suffices, or refused."""

import asyncio
import threading

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.frame.rpc.errors import ServiceError
from services.target.texts import TextThread, check_text, longest_run

LONGEST = 200_000


def by_hand(text: str) -> int:
    """`longest_run`, byte by byte."""
    longest = run = 0
    data = text.encode()
    for index, byte in enumerate(data):
        is_same = index > 0 and (byte <= 32) == (data[index - 1] <= 32)
        run = run + 1 if is_same else 1
        longest = max(longest, run)
    return longest


@given(st.text(st.sampled_from("ab é中\n\t"), max_size=40))
def test_the_longest_run(text: str) -> None:
    assert longest_run(text) == by_hand(text)


async def test_a_short_text_is_done_at_once() -> None:
    assert await TextThread().run(5, threading.get_ident) == threading.get_ident()


async def test_a_long_text_does_not_hold_the_loop_up() -> None:
    texts, may_end = TextThread(), threading.Event()

    def work() -> int:
        may_end.wait()
        return threading.get_ident()

    task = asyncio.create_task(texts.run(5000, work))
    await asyncio.sleep(0)
    assert await texts.run(5, lambda: "meanwhile") == "meanwhile"
    assert not task.done()
    may_end.set()
    assert await task != threading.get_ident()


@pytest.mark.parametrize("text", ["", "x" * LONGEST, " " * LONGEST, "é" * (LONGEST // 2), f"{'x' * LONGEST} " * 2])
def test_runs_that_the_stack_takes(text: str) -> None:
    check_text(text, "text")


@pytest.mark.parametrize(
    "text", ["x" * (LONGEST + 1), " " * (LONGEST + 1), "é" * (LONGEST // 2 + 1), "a\n" + "中" * LONGEST]
)
def test_longer_runs_are_refused(text: str) -> None:
    with pytest.raises(ServiceError) as refused:
        check_text(text, "text")
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert f"at most {LONGEST}" in refused.value.message


async def test_other_threads_have_their_usual_stack() -> None:
    usual = threading.stack_size()
    TextThread()
    assert threading.stack_size() == usual


async def test_what_fails_is_told() -> None:
    def work() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await TextThread().run(5000, work)
