"""What works get from the engine, and how they share its decodes, over a model that knows when a cache lies."""

import asyncio
import time

from services.engine.scheduling.work import PATIENCE
from tests.unit.engine.fakes import FakeRuntime, true_text, true_token
from tests.unit.engine.linear_costs import LinearCosts
from tests.unit.engine.works import (
    PROMPT,
    Chain,
    Greedy,
    at_the_gate,
    begin,
    blocked,
    prefix,
    result,
    run,
    running,
)
from tests.waiting import soon


async def test_logits_of_the_last_token_and_of_each_row_after_it() -> None:
    rows = [7, 8, 9]
    async with running(FakeRuntime()) as engine:
        work = Greedy(prefix("a", PROMPT), rows)
        assert await run(engine, work) == [true_token(PROMPT + rows[:count]) for count in range(4)]
        assert work.held_length == len(PROMPT)


async def test_rows_that_the_work_keeps_stay_cached() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        work = Greedy(prefix("a", PROMPT), [7, 8, 9], num_kept=2)
        await run(engine, work)
        assert work.held_length == len(PROMPT) + 2
        assert runtime.caches[0] == [*PROMPT, 7, 8]


async def test_work_that_goes_on_from_token_to_token() -> None:
    async with running(FakeRuntime()) as engine:
        work = Chain(prefix("a", PROMPT), 4)
        assert await run(engine, work) == true_text(PROMPT, 4)
        assert work.held_length == len(PROMPT) + 3
        assert work.timings.num_decodes == 4


async def test_sessions_share_a_decode() -> None:
    runtime = FakeRuntime(num_slots=4)
    prompts = {"b": [1], "c": [2, 3], "d": [4, 5, 6]}
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await begin(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            works = [Greedy(prefix(*item), [9]) for item in prompts.items()]
            others = await begin(engine, *works)
        _, *answers = await asyncio.gather(first, *others)
        assert runtime.num_decodes == 2
        assert [len(segment.tokens) for segment in runtime.batches[1]] == [2, 3, 4]
        for prompt, work, answer in zip(prompts.values(), works, answers, strict=True):
            assert answer == [true_token(prompt), true_token([*prompt, 9])]
            assert work.timings.batch_rows == 9
            assert work.timings.num_decodes == 1


async def test_sessions_that_were_just_answered_are_waited_for() -> None:
    runtime = FakeRuntime(num_slots=4)
    # One decode takes the place of two where it begins within the hour.
    runtime.costs = LinearCosts(3600.0, row_s=1.0)
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await begin(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            (other,) = await begin(engine, Greedy(prefix("b", PROMPT)))
        await first
        assert runtime.num_decodes == 1
        await asyncio.gather(run(engine, Greedy(prefix("a", [*PROMPT, 6]))), other)
        assert runtime.num_decodes == 2
        # Released, a session is not waited for, which would take for ever here.
        engine.release("a")
        await run(engine, Greedy(prefix("b", [*PROMPT, 6])))


async def test_sessions_that_stay_away_keep_nobody_waiting() -> None:
    runtime = FakeRuntime(num_slots=4)
    runtime.costs = LinearCosts(100.0, row_s=1e-4)
    async with running(runtime) as engine:
        for step in range(3):
            await run(engine, Greedy(prefix("a", [*PROMPT, step])))
            await run(engine, Greedy(prefix("b", [*PROMPT, step])))


async def test_a_runtime_that_parts_a_batch_changes_no_answer() -> None:
    runtime = FakeRuntime(num_slots=4)
    runtime.group_size = 1
    prompts = {"b": [1], "c": [2, 3], "d": [4, 5, 6]}
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await begin(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            others = await begin(engine, *(Chain(prefix(*item), 3) for item in prompts.items()))
        _, *answers = await asyncio.gather(first, *others)
        assert answers == [true_text(prompt, 3) for prompt in prompts.values()]
        assert all(len(batch) == 1 for batch in runtime.batches)
        assert runtime.num_decodes == 1 + 3 * 3


async def test_a_long_prompt_is_evaluated_in_parts() -> None:
    runtime = FakeRuntime(max_batch_rows=8)
    prompt = [index % 16 for index in range(21)]
    async with running(runtime) as engine:
        assert await result(engine, Greedy(prefix("a", prompt))) == [true_token(prompt)]
        assert [[len(segment.tokens) for segment in batch] for batch in runtime.batches] == [[8], [8], [5]]
        assert [batch[0].num_outputs for batch in runtime.batches] == [0, 0, 1]


async def test_a_long_prompt_never_keeps_others_waiting() -> None:
    runtime = FakeRuntime(max_batch_rows=16)
    prompt = [index % 16 for index in range(40)]
    async with running(runtime, prompt_rows=4) as engine:
        async with blocked(runtime):
            (first,) = await begin(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            long, chain = await begin(engine, Greedy(prefix("b", prompt)), Chain(prefix("c", [7]), 5))
        await asyncio.gather(first, long, chain)
        assert chain.result() == true_text([7], 5)
        assert long.result() == [true_token(prompt)]
        rows = [{segment.slot: len(segment.tokens) for segment in batch} for batch in runtime.batches[1:]]
        # Every other decode, and in large parts once the chain is done.
        assert rows[:5] == [{1: 4, 2: 1}, {2: 1}, {1: 4, 2: 1}, {2: 1}, {1: 4, 2: 1}]
        assert rows[5:] == [{1: 16}, {1: 12}]


async def test_others_never_keep_a_long_prompt_waiting_for_ever() -> None:
    """Two sessions fill every decode with their drafts, again and again."""
    runtime = FakeRuntime(max_batch_rows=8)
    prompt = [index % 16 for index in range(40)]
    async with running(runtime, prompt_rows=4) as engine:

        async def go_on(session_id: str) -> None:
            while not long.done():
                await run(engine, Greedy(prefix(session_id, PROMPT), [7, 8, 9]))

        async with blocked(runtime):
            (first,) = await begin(engine, Greedy(prefix("c", PROMPT)))
            await at_the_gate(runtime)
            (long,) = await begin(engine, Greedy(prefix("c", prompt)))
            others = [asyncio.create_task(go_on(session_id)) for session_id in ("a", "b")]
            await soon(lambda: engine.num_unanswered == 4)
        assert await long == [true_token(prompt)]
        await asyncio.gather(first, *others)
    assert runtime.num_decodes <= 3 + len(prompt) // 4 * (3 * PATIENCE + 1)


async def test_work_waits_while_every_slot_is_busy() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await begin(engine, Chain(prefix("a", PROMPT), 3))
            await at_the_gate(runtime)
            (second,) = await begin(engine, Greedy(prefix("b", [9])))
        assert await first == true_text(PROMPT, 3)
        assert await second == [true_token([9])]
        assert runtime.num_decodes == 4


async def test_a_session_does_one_thing_at_a_time() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await begin(engine, Chain(prefix("a", PROMPT), 3))
            await at_the_gate(runtime)
            (second,) = await begin(engine, Greedy(prefix("a", [9])))
        assert await first == true_text(PROMPT, 3)
        assert await second == [true_token([9])]
        assert all(len(batch) == 1 for batch in runtime.batches)


async def test_timings_are_in_order() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        before_s = time.perf_counter()
        async with blocked(runtime):
            first, second = Greedy(prefix("a", PROMPT)), Chain(prefix("b", [9]), 2)
            tasks = await begin(engine, first)
            await at_the_gate(runtime)
            tasks += await begin(engine, second)
        await asyncio.gather(*tasks)
        timings = [first.timings, second.timings]
        after_s = time.perf_counter()
        for each in timings:
            assert before_s < each.submitted_s < each.started_s < each.finished_s < after_s
            assert 0 < each.decode_s < each.finished_s - each.started_s
        assert timings[1].started_s > timings[0].finished_s
        assert [each.num_decodes for each in timings] == [1, 2]
        assert [each.batch_rows for each in timings] == [5, 1]
