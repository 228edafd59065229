"""Works that fail, come too late or are given up: each gets its error, and nobody else is hurt."""

import asyncio
import time

import pytest

from services.engine.errors import DecodeError, EngineStoppedError, QueueFullError, WorkTimeoutError
from services.engine.scheduling.engine import Engine
from tests.unit.engine.fakes import FakeRuntime, true_text, true_token
from tests.unit.engine.works import (
    PROMPT,
    Chain,
    Defective,
    Greedy,
    at_the_gate,
    begin,
    blocked,
    fill_cache,
    held_length,
    prefix,
    result,
    run,
    running,
)


async def test_a_failure_in_one_group_leaves_the_others_alone() -> None:
    runtime = FakeRuntime(num_slots=3)
    runtime.group_size = 1
    runtime.failing = {1}
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await begin(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            others = await begin(engine, Chain(prefix("b", [1]), 2), Chain(prefix("c", [2]), 2))
        assert await first == [true_token(PROMPT)]
        with pytest.raises(DecodeError):
            await others[0]
        assert await others[1] == true_text([2], 2)


async def test_a_caller_that_gives_up_ends_its_work() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await begin(engine, Chain(prefix("a", PROMPT), 30))
            await at_the_gate(runtime)
            (queued,) = await begin(engine, Chain(prefix("b", [7]), 30))
            for task in (first, queued):
                task.cancel()
            await asyncio.wait({first, queued})
        assert first.cancelled() and queued.cancelled()
        # The slot is free again, and what was evaluated before the caller gave up still counts.
        assert await result(engine, Greedy(prefix("a", [*PROMPT, 6], len(PROMPT)))) == [true_token([*PROMPT, 6])]
        assert [batch[0].tokens for batch in runtime.batches] == [PROMPT, [6]]


async def test_a_deadline_passes_in_the_queue() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        await fill_cache(engine, "a", PROMPT)
        async with blocked(runtime):
            (first,) = await begin(engine, Greedy(prefix("a", [*PROMPT, 6])))
            await at_the_gate(runtime)
            (second,) = await begin(engine, Greedy(prefix("b", [9]), deadline_s=time.perf_counter()))
        assert await first == [true_token([*PROMPT, 6])]
        with pytest.raises(WorkTimeoutError):
            await second
        assert runtime.num_decodes == 2


async def test_a_deadline_passes_under_way() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        async with blocked(runtime):
            late = Chain(prefix("a", PROMPT), 30)
            (task,) = await begin(engine, late)
            await at_the_gate(runtime)
            late.deadline_s = time.perf_counter()
        with pytest.raises(WorkTimeoutError):
            await task
        assert await held_length(engine, "a") == len(PROMPT)
        assert runtime.num_decodes == 1
        assert await result(engine, Greedy(prefix("a", PROMPT))) == [true_token(PROMPT)]


async def test_a_long_queue_is_refused() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime, max_queued=2) as engine:
        async with blocked(runtime):
            tasks = await begin(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            tasks += await begin(engine, Greedy(prefix("b", [7])), Greedy(prefix("c", [8])))
            with pytest.raises(QueueFullError):
                await run(engine, Greedy(prefix("d", [9])))
        assert await asyncio.gather(*tasks) == [[true_token(PROMPT)], [true_token([7])], [true_token([8])]]
        assert await result(engine, Greedy(prefix("d", [9]))) == [true_token([9])]


async def test_callers_that_give_up_make_room_in_the_queue() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime, max_queued=1) as engine:
        async with blocked(runtime):
            (first,) = await begin(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            (second,) = await begin(engine, Greedy(prefix("b", [7])))
            second.cancel()
            await asyncio.wait({second})
            (third,) = await begin(engine, Greedy(prefix("c", [8])))
        assert await first == [true_token(PROMPT)]
        assert await third == [true_token([8])]


async def test_a_defect_in_one_work_does_not_hurt_others() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await begin(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            defective, healthy = await begin(engine, Defective(prefix("b", [7, 8])), Greedy(prefix("c", [9])))
        await first
        with pytest.raises(ZeroDivisionError):
            await defective
        assert await healthy == [true_token([9])]
        assert runtime.num_decodes == 2
        assert await result(engine, Greedy(prefix("b", [7, 8, 9], 2))) == [true_token([7, 8, 9])]


async def test_a_failed_decode_costs_its_requests_and_nothing_else() -> None:
    runtime = FakeRuntime()
    runtime.failing = {1}
    longer = [*PROMPT, 6, 7]
    async with running(runtime) as engine:
        await fill_cache(engine, "a", PROMPT)
        with pytest.raises(DecodeError):
            await run(engine, Greedy(prefix("a", longer, len(PROMPT)), [8]))
        assert await held_length(engine, "a") == len(PROMPT)
        assert await result(engine, Greedy(prefix("a", longer, len(PROMPT)))) == [true_token(longer)]
        assert runtime.batches[2][0].tokens == [6, 7]


async def test_decodes_that_fail_again_and_again_end_the_engine() -> None:
    runtime = FakeRuntime(num_slots=1)
    runtime.failing = {0, 1, 2}
    sentences: list[str] = []
    engine = Engine(runtime, on_failure=sentences.append)
    engine.start()
    async with blocked(runtime):
        tasks = await begin(engine, *(Greedy(prefix(name, PROMPT)) for name in "abcd"))
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    # The last one never had a turn.
    assert [type(error) for error in errors] == [DecodeError] * 3 + [EngineStoppedError]
    with pytest.raises(EngineStoppedError):
        await run(engine, Greedy(prefix("e", PROMPT)))
    assert sentences == ["the engine cannot go on: told to fail"]
    engine.stop()
    assert engine.num_unanswered == engine.num_active == engine.num_waiting == 0
    assert runtime.is_closed


async def test_a_decode_that_fails_under_way_keeps_the_steps_before_it() -> None:
    runtime = FakeRuntime()
    runtime.failing = {2}
    text = true_text(PROMPT, 3)
    async with running(runtime) as engine:
        with pytest.raises(DecodeError):
            await run(engine, Chain(prefix("a", PROMPT), 3))
        assert await held_length(engine, "a") == len(PROMPT) + 1
        longer = [*PROMPT, *text]
        assert await result(engine, Greedy(prefix("a", longer, len(PROMPT) + 1))) == [true_token(longer)]
        assert runtime.batches[3][0].tokens == text[1:]


@pytest.mark.parametrize("rows", [pytest.param([], id="on admission"), pytest.param([8, 9], id="at the end")])
async def test_a_cache_that_cannot_be_cut_costs_its_request_and_nothing_else(rows: list[int]) -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await fill_cache(engine, "a", PROMPT)
        tokens = [*PROMPT, 6] if rows else [*PROMPT[:2], 9]
        runtime.uncuttable = {0}
        with pytest.raises(DecodeError):
            await run(engine, Greedy(prefix("a", tokens), rows))
        assert await held_length(engine, "a") == len(runtime.caches[0])
        assert await result(engine, Greedy(prefix("b", [9]))) == [true_token([9])]
        runtime.uncuttable = set()
        assert await result(engine, Greedy(prefix("a", tokens))) == [true_token(tokens)]
