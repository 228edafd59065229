"""What sessions need not have evaluated again: their own prefix, or that of another; and what they are told of it."""

import pytest

from services.engine.scheduling.work import Miss
from services.session.sequence import TokenSequence
from tests.unit.engine.fakes import FakeRuntime, true_token
from tests.unit.engine.linear_costs import LinearCosts
from tests.unit.engine.works import (
    PROMPT,
    Greedy,
    fill_cache,
    prefix,
    result,
    run,
    running,
)


async def test_a_cached_prefix_is_not_evaluated_again() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await fill_cache(engine, "a", PROMPT)
        longer = [*PROMPT, 6, 7]
        work = Greedy(prefix("a", longer, len(PROMPT)))
        assert await result(engine, work) == [true_token(longer)]
        assert runtime.batches[1][0].tokens == [6, 7]
        assert work.num_cached == len(PROMPT)


async def test_a_cached_prefix_is_found_without_being_named() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await fill_cache(engine, "a", PROMPT)
        other = [*PROMPT[:3], 9, 9]
        work = Greedy(prefix("a", other))
        assert await result(engine, work) == [true_token(other)]
        assert runtime.batches[1][0].tokens == [9, 9]
        assert work.num_cached == 3


async def test_the_last_token_is_always_evaluated() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await fill_cache(engine, "a", PROMPT)
        assert await result(engine, Greedy(prefix("a", PROMPT))) == [true_token(PROMPT)]
        assert runtime.batches[1][0].tokens == PROMPT[-1:]


async def test_a_caller_may_go_back() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await fill_cache(engine, "a", PROMPT)
        other = [*PROMPT[:2], 9]
        work = Greedy(prefix("a", other, 2))
        assert await run(engine, work) == [true_token(other)]
        assert work.held_length == 3
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
        await fill_cache(engine, "a", PROMPT)
        answer = await run(engine, Greedy(prefix("a", tokens, cached_length)))
        assert answer == Miss(len(PROMPT), TokenSequence(PROMPT).digests[-1])
        assert runtime.num_decodes == 1
        # A miss costs nothing: what was held is still there.
        assert await result(engine, Greedy(prefix("a", [*PROMPT, 6], len(PROMPT)))) == [true_token([*PROMPT, 6])]
        assert runtime.batches[1][0].tokens == [6]


async def test_an_unknown_session_holds_nothing() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        await fill_cache(engine, "a", PROMPT)
        assert await run(engine, Greedy(prefix("b", PROMPT, 2))) == Miss(0, b"")


async def test_an_evicted_session_replays() -> None:
    runtime = FakeRuntime(num_slots=2)
    async with running(runtime) as engine:
        for session_id, tokens in (("a", PROMPT), ("b", [7]), ("c", [8, 9])):
            await fill_cache(engine, session_id, tokens)
        longer = [*PROMPT, 6]
        assert await run(engine, Greedy(prefix("a", longer, len(PROMPT)))) == Miss(0, b"")
        assert await result(engine, Greedy(prefix("a", longer))) == [true_token(longer)]


async def test_a_session_inherits_what_fits_in_the_slot_of_another() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        await fill_cache(engine, "a", PROMPT)
        other = [*PROMPT[:3], 9]
        assert await result(engine, Greedy(prefix("b", other))) == [true_token(other)]
        assert runtime.batches[1][0].tokens == [9]


@pytest.mark.parametrize(("copy_in_rows", "num_evaluated"), [(0, 2), (11, 2), (12, 14)])
async def test_a_prompt_is_shared_where_another_session_holds_more_than_a_copy_costs(
    copy_in_rows: int, num_evaluated: int
) -> None:
    runtime = FakeRuntime()
    prompt = [*range(1, 13)]
    runtime.costs = LinearCosts(16.0, copy_in_rows=copy_in_rows)
    async with running(runtime) as engine:
        await fill_cache(engine, "a", [*prompt, 13])
        work = Greedy(prefix("b", [*prompt, 7, 8]))
        assert await result(engine, work) == [true_token([*prompt, 7, 8])]
        assert len(runtime.batches[-1][0].tokens) == num_evaluated == len(prompt) + 2 - work.num_cached
        assert runtime.caches[0] == [*prompt, 13]


async def test_a_released_session_goes_first() -> None:
    runtime = FakeRuntime(num_slots=2)
    async with running(runtime) as engine:
        await fill_cache(engine, "a", PROMPT)
        await fill_cache(engine, "b", PROMPT)
        engine.release("b")
        await fill_cache(engine, "c", [9])
        assert await run(engine, Greedy(prefix("b", PROMPT, 2))) == Miss(0, b"")
        assert await result(engine, Greedy(prefix("a", PROMPT, 2))) == [true_token(PROMPT)]
