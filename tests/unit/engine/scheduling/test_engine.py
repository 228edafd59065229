"""The engine over a model that knows when a cache lies."""

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from services.engine.errors import (
    DecodeError,
    EngineStoppedError,
    QueueFullError,
    WorkTimeoutError,
)
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.plan import PATIENCE
from services.engine.scheduling.work import Miss, Outcome, Work
from services.session.sequence import TokenSequence
from tests.unit.engine.costs import LinearCosts
from tests.unit.engine.fakes import FakeRuntime, true_text, true_token
from tests.unit.engine.works import Chain, Defective, Greedy, at_the_gate, blocked, prefix, running
from tests.waiting import PATIENCE_S, eventually, soon

PROMPT = [1, 2, 3, 4, 5]


async def _run(engine: Engine, work: Work) -> Outcome:
    async with asyncio.timeout(PATIENCE_S):
        return await engine.run(work)


async def _value(engine: Engine, work: Work) -> Any:
    return (await _run(engine, work)).value


async def _start(engine: Engine, *works: Work) -> list[asyncio.Task[Outcome]]:
    """Hand works to the engine without waiting for them."""
    tasks = [asyncio.create_task(_run(engine, work)) for work in works]
    # Tasks start in order, and handing over is the first thing that they do.
    await asyncio.sleep(0)
    return tasks


async def _fill_cache(engine: Engine, session_id: str, tokens: Sequence[int]) -> None:
    outcome = await _run(engine, Greedy(prefix(session_id, tokens)))
    assert outcome.held_length == len(tokens)


async def test_logits_of_the_last_token_and_of_each_row_after_it() -> None:
    rows = [7, 8, 9]
    async with running(FakeRuntime()) as engine:
        outcome = await _run(engine, Greedy(prefix("a", PROMPT), rows))
        assert outcome.value == [true_token(PROMPT + rows[:count]) for count in range(4)]
        assert outcome.held_length == len(PROMPT)


async def test_rows_that_the_work_keeps_stay_cached() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        outcome = await _run(engine, Greedy(prefix("a", PROMPT), [7, 8, 9], num_kept=2))
        assert outcome.held_length == len(PROMPT) + 2
        assert runtime.caches[0] == [*PROMPT, 7, 8]


async def test_work_that_goes_on_from_token_to_token() -> None:
    async with running(FakeRuntime()) as engine:
        outcome = await _run(engine, Chain(prefix("a", PROMPT), 4))
        assert outcome.value == true_text(PROMPT, 4)
        assert outcome.held_length == len(PROMPT) + 3
        assert outcome.timings.num_decodes == 4


async def test_sessions_share_a_decode() -> None:
    runtime = FakeRuntime(num_slots=4)
    prompts = {"b": [1], "c": [2, 3], "d": [4, 5, 6]}
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await _start(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            others = await _start(engine, *(Greedy(prefix(*item), [9]) for item in prompts.items()))
        outcomes = await asyncio.gather(first, *others)
        assert runtime.num_decodes == 2
        assert [len(segment.tokens) for segment in runtime.batches[1]] == [2, 3, 4]
        for prompt, outcome in zip(prompts.values(), outcomes[1:], strict=True):
            assert outcome.value == [true_token(prompt), true_token([*prompt, 9])]
            assert outcome.timings.batch_rows == 9
            assert outcome.timings.num_decodes == 1


async def test_sessions_that_were_just_answered_are_waited_for() -> None:
    runtime = FakeRuntime(num_slots=4)
    # One decode takes the place of two where it begins within the hour.
    runtime.costs = LinearCosts(3600.0, row_s=1.0)
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await _start(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            (other,) = await _start(engine, Greedy(prefix("b", PROMPT)))
        await first
        assert runtime.num_decodes == 1
        await asyncio.gather(_run(engine, Greedy(prefix("a", [*PROMPT, 6]))), other)
        assert runtime.num_decodes == 2
        # Released, a session is not waited for, which would take for ever here.
        engine.release("a")
        await _run(engine, Greedy(prefix("b", [*PROMPT, 6])))


async def test_sessions_that_stay_away_keep_nobody_waiting() -> None:
    runtime = FakeRuntime(num_slots=4)
    runtime.costs = LinearCosts(100.0, row_s=1e-4)
    async with running(runtime) as engine:
        for step in range(3):
            await _run(engine, Greedy(prefix("a", [*PROMPT, step])))
            await _run(engine, Greedy(prefix("b", [*PROMPT, step])))


async def test_a_runtime_that_parts_a_batch_changes_no_answer() -> None:
    runtime = FakeRuntime(num_slots=4)
    runtime.group_size = 1
    prompts = {"b": [1], "c": [2, 3], "d": [4, 5, 6]}
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await _start(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            others = await _start(engine, *(Chain(prefix(*item), 3) for item in prompts.items()))
        outcomes = await asyncio.gather(first, *others)
        assert [outcome.value for outcome in outcomes[1:]] == [true_text(prompt, 3) for prompt in prompts.values()]
        assert all(len(batch) == 1 for batch in runtime.batches)
        assert runtime.num_decodes == 1 + 3 * 3


async def test_a_failure_in_one_group_leaves_the_others_alone() -> None:
    runtime = FakeRuntime(num_slots=3)
    runtime.group_size = 1
    runtime.failing = {1}
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await _start(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            others = await _start(engine, Chain(prefix("b", [1]), 2), Chain(prefix("c", [2]), 2))
        assert (await first).value == [true_token(PROMPT)]
        assert isinstance((await others[0]).value, DecodeError)
        assert (await others[1]).value == true_text([2], 2)


async def test_a_long_prompt_is_evaluated_in_parts() -> None:
    runtime = FakeRuntime(max_batch_rows=8)
    prompt = [index % 16 for index in range(21)]
    async with running(runtime) as engine:
        assert await _value(engine, Greedy(prefix("a", prompt))) == [true_token(prompt)]
        assert [[len(segment.tokens) for segment in batch] for batch in runtime.batches] == [[8], [8], [5]]
        assert [batch[0].num_outputs for batch in runtime.batches] == [0, 0, 1]


async def test_a_long_prompt_never_keeps_others_waiting() -> None:
    runtime = FakeRuntime(max_batch_rows=16)
    prompt = [index % 16 for index in range(40)]
    async with running(runtime, prompt_rows=4) as engine:
        async with blocked(runtime):
            (first,) = await _start(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            long, chain = await _start(engine, Greedy(prefix("b", prompt)), Chain(prefix("c", [7]), 5))
        await asyncio.gather(first, long, chain)
        assert chain.result().value == true_text([7], 5)
        assert long.result().value == [true_token(prompt)]
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
                await _run(engine, Greedy(prefix(session_id, PROMPT), [7, 8, 9]))

        async with blocked(runtime):
            (first,) = await _start(engine, Greedy(prefix("c", PROMPT)))
            await at_the_gate(runtime)
            (long,) = await _start(engine, Greedy(prefix("c", prompt)))
            others = [asyncio.create_task(go_on(session_id)) for session_id in ("a", "b")]
            await soon(lambda: engine.num_unanswered == 4)
        assert (await long).value == [true_token(prompt)]
        await asyncio.gather(first, *others)
    assert runtime.num_decodes <= 3 + len(prompt) // 4 * (3 * PATIENCE + 1)


async def test_a_cached_prefix_is_not_evaluated_again() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await _fill_cache(engine, "a", PROMPT)
        longer = [*PROMPT, 6, 7]
        assert await _value(engine, Greedy(prefix("a", longer, len(PROMPT)))) == [true_token(longer)]
        assert runtime.batches[1][0].tokens == [6, 7]


async def test_a_cached_prefix_is_found_without_being_named() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await _fill_cache(engine, "a", PROMPT)
        other = [*PROMPT[:3], 9, 9]
        assert await _value(engine, Greedy(prefix("a", other))) == [true_token(other)]
        assert runtime.batches[1][0].tokens == [9, 9]


async def test_the_last_token_is_always_evaluated() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await _fill_cache(engine, "a", PROMPT)
        assert await _value(engine, Greedy(prefix("a", PROMPT))) == [true_token(PROMPT)]
        assert runtime.batches[1][0].tokens == PROMPT[-1:]


async def test_a_caller_may_go_back() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await _fill_cache(engine, "a", PROMPT)
        other = [*PROMPT[:2], 9]
        outcome = await _run(engine, Greedy(prefix("a", other, 2)))
        assert outcome.value == [true_token(other)]
        assert outcome.held_length == 3
        assert runtime.caches[0] == other


@pytest.mark.parametrize(
    ("tokens", "cached_length"),
    [
        pytest.param([*PROMPT, 6, 7, 8], 7, id="more than is held"),
        pytest.param([9, 2, 3, 4, 5, 6], 3, id="another prefix"),
        pytest.param([1, 2, 3, 4, 9, 6], 5, id="another last token"),
    ],
)
async def test_a_prefix_that_is_not_held_is_a_miss(tokens: list[int], cached_length: int) -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await _fill_cache(engine, "a", PROMPT)
        outcome = await _run(engine, Greedy(prefix("a", tokens, cached_length)))
        assert outcome.value == Miss(len(PROMPT), TokenSequence(PROMPT).digests[-1])
        assert outcome.held_length == len(PROMPT)
        assert runtime.num_decodes == 1
        # A miss costs nothing: what was held is still there.
        assert await _value(engine, Greedy(prefix("a", [*PROMPT, 6], len(PROMPT)))) == [true_token([*PROMPT, 6])]
        assert runtime.batches[1][0].tokens == [6]


async def test_an_unknown_session_holds_nothing() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await _fill_cache(engine, "a", PROMPT)
        outcome = await _run(engine, Greedy(prefix("b", PROMPT, 2)))
        assert outcome.value == Miss(0, b"")
        assert outcome.held_length == 0


async def test_an_evicted_session_replays() -> None:
    runtime = FakeRuntime(num_slots=2)
    async with running(runtime) as engine:
        for session_id, tokens in (("a", PROMPT), ("b", [7]), ("c", [8, 9])):
            await _fill_cache(engine, session_id, tokens)
        longer = [*PROMPT, 6]
        assert await _value(engine, Greedy(prefix("a", longer, len(PROMPT)))) == Miss(0, b"")
        assert await _value(engine, Greedy(prefix("a", longer))) == [true_token(longer)]


async def test_a_session_inherits_what_fits_in_the_slot_of_another() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        await _fill_cache(engine, "a", PROMPT)
        other = [*PROMPT[:3], 9]
        assert await _value(engine, Greedy(prefix("b", other))) == [true_token(other)]
        assert runtime.batches[1][0].tokens == [9]


@pytest.mark.parametrize(("copy_worth", "num_evaluated"), [(0, 2), (11, 2), (12, 14)])
async def test_a_prompt_is_shared_where_another_session_holds_more_than_a_copy_costs(
    copy_worth: int, num_evaluated: int
) -> None:
    runtime = FakeRuntime()
    prompt = [*range(1, 13)]
    runtime.costs = LinearCosts(16.0, copy_worth=copy_worth)
    async with running(runtime) as engine:
        await _fill_cache(engine, "a", [*prompt, 13])
        assert await _value(engine, Greedy(prefix("b", [*prompt, 7, 8]))) == [true_token([*prompt, 7, 8])]
        assert len(runtime.batches[-1][0].tokens) == num_evaluated
        assert runtime.caches[0] == [*prompt, 13]


async def test_a_released_session_goes_first() -> None:
    runtime = FakeRuntime(num_slots=2)
    async with running(runtime) as engine:
        await _fill_cache(engine, "a", PROMPT)
        await _fill_cache(engine, "b", PROMPT)
        engine.release("b")
        await _fill_cache(engine, "c", [9])
        assert await _value(engine, Greedy(prefix("b", PROMPT, 2))) == Miss(0, b"")
        assert await _value(engine, Greedy(prefix("a", PROMPT, 2))) == [true_token(PROMPT)]


async def test_work_waits_while_every_slot_is_busy() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await _start(engine, Chain(prefix("a", PROMPT), 3))
            await at_the_gate(runtime)
            (second,) = await _start(engine, Greedy(prefix("b", [9])))
        assert (await first).value == true_text(PROMPT, 3)
        assert (await second).value == [true_token([9])]
        assert runtime.num_decodes == 4


async def test_a_session_does_one_thing_at_a_time() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await _start(engine, Chain(prefix("a", PROMPT), 3))
            await at_the_gate(runtime)
            (second,) = await _start(engine, Greedy(prefix("a", [9])))
        assert (await first).value == true_text(PROMPT, 3)
        assert (await second).value == [true_token([9])]
        assert all(len(batch) == 1 for batch in runtime.batches)


async def test_a_caller_that_gives_up_ends_its_work() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await _start(engine, Chain(prefix("a", PROMPT), 30))
            await at_the_gate(runtime)
            (queued,) = await _start(engine, Chain(prefix("b", [7]), 30))
            for task in (first, queued):
                task.cancel()
            await asyncio.wait({first, queued})
        assert first.cancelled() and queued.cancelled()
        # The slot is free again, and what was evaluated before the caller gave up still counts.
        assert await _value(engine, Greedy(prefix("a", [*PROMPT, 6], len(PROMPT)))) == [true_token([*PROMPT, 6])]
        assert [batch[0].tokens for batch in runtime.batches] == [PROMPT, [6]]


async def test_a_deadline_passes_in_the_queue() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        await _fill_cache(engine, "a", PROMPT)
        async with blocked(runtime):
            (first,) = await _start(engine, Greedy(prefix("a", [*PROMPT, 6])))
            await at_the_gate(runtime)
            (second,) = await _start(engine, Greedy(prefix("b", [9]), deadline_s=time.perf_counter()))
        assert (await first).value == [true_token([*PROMPT, 6])]
        assert isinstance((await second).value, WorkTimeoutError)
        assert runtime.num_decodes == 2


async def test_a_deadline_passes_under_way() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        async with blocked(runtime):
            late = Chain(prefix("a", PROMPT), 30)
            (task,) = await _start(engine, late)
            await at_the_gate(runtime)
            late.deadline_s = time.perf_counter()
        outcome = await task
        assert isinstance(outcome.value, WorkTimeoutError)
        assert outcome.held_length == len(PROMPT)
        assert runtime.num_decodes == 1
        assert await _value(engine, Greedy(prefix("a", PROMPT))) == [true_token(PROMPT)]


async def test_a_long_queue_is_refused() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime, max_queued=2) as engine:
        async with blocked(runtime):
            tasks = await _start(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            tasks += await _start(engine, Greedy(prefix("b", [7])), Greedy(prefix("c", [8])))
            with pytest.raises(QueueFullError):
                await _run(engine, Greedy(prefix("d", [9])))
        outcomes = await asyncio.gather(*tasks)
        assert [outcome.value for outcome in outcomes] == [[true_token(PROMPT)], [true_token([7])], [true_token([8])]]
        assert await _value(engine, Greedy(prefix("d", [9]))) == [true_token([9])]


async def test_callers_that_give_up_make_room_in_the_queue() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime, max_queued=1) as engine:
        async with blocked(runtime):
            (first,) = await _start(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            (second,) = await _start(engine, Greedy(prefix("b", [7])))
            second.cancel()
            await asyncio.wait({second})
            (third,) = await _start(engine, Greedy(prefix("c", [8])))
        assert (await first).value == [true_token(PROMPT)]
        assert (await third).value == [true_token([8])]


async def test_a_defect_in_one_work_does_not_hurt_others() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        async with blocked(runtime):
            (first,) = await _start(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            tasks = await _start(engine, Defective(prefix("b", [7, 8])), Greedy(prefix("c", [9])))
        defective, healthy = await asyncio.gather(*tasks)
        await first
        assert runtime.num_decodes == 2
        assert isinstance(defective.value, ZeroDivisionError)
        assert healthy.value == [true_token([9])]
        assert await _value(engine, Greedy(prefix("b", [7, 8, 9], 2))) == [true_token([7, 8, 9])]


async def test_a_failed_decode_costs_its_requests_and_nothing_else() -> None:
    runtime = FakeRuntime()
    runtime.failing = {1}
    longer = [*PROMPT, 6, 7]
    async with running(runtime) as engine:
        await _fill_cache(engine, "a", PROMPT)
        outcome = await _run(engine, Greedy(prefix("a", longer, len(PROMPT)), [8]))
        assert isinstance(outcome.value, DecodeError)
        assert outcome.held_length == len(PROMPT)
        assert await _value(engine, Greedy(prefix("a", longer, len(PROMPT)))) == [true_token(longer)]
        assert runtime.batches[2][0].tokens == [6, 7]


async def test_decodes_that_fail_again_and_again_end_the_engine() -> None:
    runtime = FakeRuntime(num_slots=1)
    runtime.failing = {0, 1, 2}
    sentences: list[str] = []
    engine = Engine(runtime, on_failure=sentences.append)
    engine.start()
    async with blocked(runtime):
        tasks = await _start(engine, *(Greedy(prefix(name, PROMPT)) for name in "abcd"))
    values = [outcome.value for outcome in await asyncio.gather(*tasks)]
    # The last one never had a turn.
    assert [type(value) for value in values] == [DecodeError] * 3 + [EngineStoppedError]
    with pytest.raises(EngineStoppedError):
        await _run(engine, Greedy(prefix("e", PROMPT)))
    assert sentences == ["the engine cannot go on: told to fail"]
    engine.stop()
    assert engine.num_unanswered == engine.num_active == engine.num_waiting == 0
    assert runtime.is_closed


async def test_a_decode_that_fails_under_way_keeps_the_steps_before_it() -> None:
    runtime = FakeRuntime()
    runtime.failing = {2}
    text = true_text(PROMPT, 3)
    async with running(runtime) as engine:
        outcome = await _run(engine, Chain(prefix("a", PROMPT), 3))
        assert isinstance(outcome.value, DecodeError)
        assert outcome.held_length == len(PROMPT) + 1
        longer = [*PROMPT, *text]
        assert await _value(engine, Greedy(prefix("a", longer, len(PROMPT) + 1))) == [true_token(longer)]
        assert runtime.batches[3][0].tokens == text[1:]


@pytest.mark.parametrize("rows", [pytest.param([], id="on admission"), pytest.param([8, 9], id="at the end")])
async def test_a_cache_that_cannot_be_cut_costs_its_request_and_nothing_else(rows: list[int]) -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await _fill_cache(engine, "a", PROMPT)
        tokens = [*PROMPT, 6] if rows else [*PROMPT[:2], 9]
        runtime.uncuttable = {0}
        outcome = await _run(engine, Greedy(prefix("a", tokens), rows))
        assert isinstance(outcome.value, DecodeError)
        assert outcome.held_length == len(runtime.caches[0])
        assert await _value(engine, Greedy(prefix("b", [9]))) == [true_token([9])]
        runtime.uncuttable = set()
        assert await _value(engine, Greedy(prefix("a", tokens))) == [true_token(tokens)]


async def test_stopping_answers_what_is_left() -> None:
    runtime = FakeRuntime(num_slots=1)
    engine = Engine(runtime)
    engine.start()
    async with blocked(runtime):
        tasks = await _start(engine, Chain(prefix("a", PROMPT), 30))
        await at_the_gate(runtime)
        tasks += await _start(engine, Greedy(prefix("b", [7])), Greedy(prefix("c", [8])))
        stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
        await soon(lambda: _is_refusing(engine))
        with pytest.raises(EngineStoppedError):
            await _run(engine, Greedy(prefix("d", [9])))
    outcomes = await asyncio.gather(*tasks)
    await stopping
    assert [type(outcome.value) for outcome in outcomes] == [EngineStoppedError] * 3
    assert runtime.num_decodes == 1
    assert runtime.is_closed


async def test_work_that_comes_while_the_engine_stops_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was let in before, so that somebody must look into the inbox after it got there."""
    runtime = FakeRuntime()
    engine = Engine(runtime)
    engine.start()
    stopping = threading.Thread(target=engine.stop)
    put = engine._inbox.put

    class Inbox:
        """Lets the engine stop, as far as it can, just before work gets in."""

        def put(self, item: Any) -> None:
            if isinstance(item, Work):
                stopping.start()
                eventually(lambda: not engine._thread.is_alive() or engine._stopping.locked())
            put(item)

        def __getattr__(self, name: str) -> Any:
            return getattr(inbox, name)

    inbox = engine._inbox
    monkeypatch.setattr(engine, "_inbox", Inbox())
    with suppress(EngineStoppedError):
        assert isinstance(await _value(engine, Greedy(prefix("a", PROMPT))), EngineStoppedError | list)
    stopping.join(PATIENCE_S)
    assert runtime.is_closed


def _is_refusing(engine: Engine) -> bool:
    return engine._is_stopping


async def test_an_idle_engine_stops() -> None:
    runtime = FakeRuntime()
    async with running(runtime):
        pass
    assert runtime.is_closed
    assert runtime.num_decodes == 0


async def test_a_caller_whose_event_loop_is_gone_does_not_hurt() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        async with blocked(runtime):
            await asyncio.to_thread(_give_up_in_a_loop_of_its_own, engine, runtime)
        assert await _value(engine, Greedy(prefix("b", [9]))) == [true_token([9])]


def _give_up_in_a_loop_of_its_own(engine: Engine, runtime: FakeRuntime) -> None:
    async def give_up() -> None:
        task = asyncio.create_task(engine.run(Greedy(prefix("a", PROMPT))))
        await at_the_gate(runtime)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(give_up())


async def test_timings_are_in_order() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        before_s = time.perf_counter()
        async with blocked(runtime):
            (first,) = await _start(engine, Greedy(prefix("a", PROMPT)))
            await at_the_gate(runtime)
            (second,) = await _start(engine, Chain(prefix("b", [9]), 2))
        timings = [outcome.timings for outcome in await asyncio.gather(first, second)]
        after_s = time.perf_counter()
        for each in timings:
            assert before_s < each.submitted_s < each.started_s < each.finished_s < after_s
            assert 0 < each.decode_s < each.finished_s - each.started_s
        assert timings[1].started_s > timings[0].finished_s
        assert [each.num_decodes for each in timings] == [1, 2]
        assert [each.batch_rows for each in timings] == [5, 1]


def test_an_engine_whose_thread_could_not_start_is_stopped_like_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    runtime = FakeRuntime()
    engine = Engine(runtime)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            engine.start()
    engine.stop()
    assert runtime.is_closed
