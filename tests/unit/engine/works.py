"""Small pieces of work for tests of the engine, prefixes for them, and ways to have them done."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from services.engine.runtime.interface import Logits
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.turns import Turns
from services.engine.scheduling.work import Miss, Prefix, ResultT, Work
from services.session.sequence import TokenSequence
from tests.unit.engine.fakes import FakeRuntime
from tests.waiting import PATIENCE_S, soon

PROMPT = [1, 2, 3, 4, 5]


def prefix(session_id: str, tokens: Sequence[int], cached_length: int = 0) -> Prefix:
    """The prefix of a caller who believes that `cached_length` of the tokens are cached."""
    digest = TokenSequence(tokens).digests[cached_length] if cached_length else b""
    return Prefix(session_id, cached_length, digest, tokens[cached_length:])


class Greedy(Work[list[int]]):
    """Finishes with the best token of every row; keeps the prefix and `num_kept` of the rows after it."""

    def __init__(
        self, prefix: Prefix, rows: Sequence[int] = (), *, num_kept: int = 0, deadline_s: float | None = None
    ) -> None:
        super().__init__(prefix, rows, deadline_s=deadline_s)
        self._num_kept = num_kept

    def next_step(self, logits: Logits, held: Sequence[int]) -> Sequence[int]:
        return self.finish(logits.argmax(axis=1).tolist(), self.prefix.length + self._num_kept)


class Chain(Work[list[int]]):
    """Goes on from token to token, one row at a time, and finishes with all of them."""

    def __init__(self, prefix: Prefix, num_tokens: int, *, deadline_s: float | None = None) -> None:
        super().__init__(prefix, deadline_s=deadline_s)
        self._num_tokens = num_tokens
        self.tokens: list[int] = []

    def next_step(self, logits: Logits, held: Sequence[int]) -> Sequence[int]:
        self.tokens.append(int(logits[0].argmax()))
        return self.finish(self.tokens, len(held)) if len(self.tokens) == self._num_tokens else self.tokens[-1:]


class Defective(Work[None]):
    """Fails when it is given its logits."""

    def next_step(self, logits: Logits, held: Sequence[int]) -> Sequence[int]:
        raise ZeroDivisionError("a defect")


@asynccontextmanager
async def running(
    runtime: FakeRuntime, *, max_queued: int = 256, prompt_rows: int = 256, turns: Turns | None = None
) -> AsyncIterator[Engine]:
    """An engine over the runtime. At the end everything must have been as promised."""
    engine = Engine(runtime, max_queued=max_queued, prompt_rows=prompt_rows, turns=turns)
    engine.start()
    try:
        yield engine
    finally:
        runtime.gate.set()
        engine.stop()
        assert runtime.complaints == []


@asynccontextmanager
async def blocked(runtime: FakeRuntime) -> AsyncIterator[None]:
    """Let everything in the block happen while the next decode is under way; wait for the block before it goes on."""
    runtime.gate.clear()
    try:
        yield
    finally:
        runtime.gate.set()


async def at_the_gate(runtime: FakeRuntime) -> None:
    """Return once a decode waits at the gate."""
    await soon(lambda: runtime.is_waiting)


async def run(engine: Engine, work: Work[ResultT]) -> ResultT | Miss:
    async with asyncio.timeout(PATIENCE_S):
        return await engine.run(work)


async def result(engine: Engine, work: Work[ResultT]) -> ResultT:
    answer = await run(engine, work)
    assert not isinstance(answer, Miss)
    return answer


async def begin(engine: Engine, *works: Work[Any]) -> list[asyncio.Task[Any]]:
    """Hand works to the engine without waiting for them."""
    tasks = [asyncio.create_task(run(engine, work)) for work in works]
    # Tasks start in order, and handing over is the first thing that they do.
    await asyncio.sleep(0)
    return tasks


async def fill_cache(engine: Engine, session_id: str, tokens: Sequence[int]) -> None:
    work = Greedy(prefix(session_id, tokens))
    await result(engine, work)
    assert work.held_length == len(tokens)


async def held_length(engine: Engine, session_id: str) -> int:
    """Return what the engine says that it holds of a session, to a caller who believes something else."""
    outcome = await run(engine, Greedy(Prefix(session_id, 1, b"no such digest..", [0])))
    assert isinstance(outcome, Miss)
    return outcome.held_length
