"""Saying what is waited for, and telling callers."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from services.frame.program.settings import ServerSettings
from services.frame.program.waiting import saying
from services.frame.rpc.errors import error_from_rpc
from services.frame.server import FrameServer
from tests.waiting import PATIENCE_S, soon

Connect = Callable[[FrameServer], grpc.aio.Channel]


async def test_it_is_said_again_and_again_until_the_block_ends() -> None:
    waits_s: list[float] = []

    async def say(waited_s: float) -> None:
        waits_s.append(waited_s)

    async with saying(say, after_s=0.0, again_s=0.0):
        await soon(lambda: len(waits_s) >= 3)
    num_said = len(waits_s)
    assert waits_s == sorted(waits_s)
    await asyncio.sleep(0)
    assert len(waits_s) == num_said


async def test_nothing_is_said_of_what_is_quick() -> None:
    async def say(waited_s: float) -> None:
        raise AssertionError("it has not taken long")

    async with saying(say, after_s=PATIENCE_S):
        await asyncio.sleep(0)


async def test_a_block_that_fails_says_no_more() -> None:
    num_said = 0

    async def say(waited_s: float) -> None:
        nonlocal num_said
        num_said += 1

    with pytest.raises(RuntimeError, match="a defect"):
        async with saying(say, after_s=0.0, again_s=0.0):
            await soon(lambda: num_said)
            raise RuntimeError("a defect")
    assert {task for task in asyncio.all_tasks() if not task.done()} == {asyncio.current_task()}


async def test_callers_learn_what_a_start_waits_for(application_class: Any, connect: Connect) -> None:
    may_go_on = asyncio.Event()
    server = FrameServer(ServerSettings(), application_class(loading=may_go_on.wait()))
    await server.listen()
    starting = asyncio.create_task(server.start())
    server.announce_wait("loading a.gguf (30 MiB)")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await connect(server).unary_unary("/test.Echo/Echo")(b"hello")
    error = error_from_rpc(refused.value)
    assert error.message == "the service is still starting: loading a.gguf (30 MiB)"
    assert (error.reason, error.metadata) == ("NOT_READY", {"wait": "loading a.gguf (30 MiB)"})
    may_go_on.set()
    await starting
    await server.stop(0)
