"""The engine in virtual time: the real scheduler over a runtime whose decodes cost time and compute nothing."""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from orchestrator.simulation.clock import Clock
from orchestrator.simulation.scenario import ModelCosts
from orchestrator.simulation.script import VOCABULARY_SIZE
from services.engine.runtime.decode_costs import DecodeCosts
from services.engine.runtime.interface import Logits, Segment
from services.engine.scheduling.scheduler import Decode, Scheduler
from services.engine.scheduling.work import Work

CONTEXT_LENGTH = 1 << 20
_MAX_BATCH_ROWS = 1024
# What happens at the same moment is complete after this: nobody's messages are first by the order of their tasks.
_SAME_MOMENT_S = 1e-7


class ClockRuntime:
    """Stands where a model stands: its decodes take as long as `costs` say, and give no logits."""

    context_length = CONTEXT_LENGTH
    max_batch_rows = _MAX_BATCH_ROWS
    vocabulary_size = VOCABULARY_SIZE

    def __init__(
        self, model: ModelCosts, elapse: Callable[[float], object], num_slots: int, max_sessions: int | None = None
    ) -> None:
        """`elapse` lets seconds pass. At most `max_sessions` go into one decode."""
        self.costs = DecodeCosts()
        self.num_slots = num_slots
        self._model = model
        self._elapse = elapse
        self.max_sessions = max_sessions or num_slots

    def padded_rows(self, num_sessions: int, num_rows: int) -> int:
        """Return the rows of sessions that all have as many: those that have fewer are padded."""
        return num_sessions * num_rows

    def group(self, segments: Sequence[Segment]) -> list[list[Segment]]:
        """Part segments into decodes of as many sessions as one may have."""
        return [list(segments[i : i + self.max_sessions]) for i in range(0, len(segments), self.max_sessions)]

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        """Let the time of one decode pass."""
        num_rows = self.padded_rows(len(segments), max(segment.num_rows for segment in segments))
        context = max(segment.first_position for segment in segments)
        duration_s = self._model.decode_ms(len(segments), num_rows, context) / 1e3
        self._elapse(duration_s)
        self.costs.observe(num_rows, duration_s, len(segments))
        return [np.empty((segment.num_outputs, 0), np.float32) for segment in segments]

    def reachable(self, slot: int, length: int) -> int:
        """Return `length`: any can be cut to."""
        return length

    def cut(self, slot: int, length: int) -> None:
        """Do nothing: nothing is held."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Do nothing: nothing is held."""

    def attention_digest(self, slot: int, position: int) -> bytes:
        """Return no digest."""
        return b""

    def close(self) -> None:
        """Do nothing."""


class ClockEngine:
    """`services.engine.scheduling.engine.Engine` as a task in virtual time instead of a thread.

    A step of the scheduler runs at the moment at which it begins, with the clock set apart: its decodes take time for
    nobody else, and what it answers is delivered at the time of the answer. Nothing is lost by that, as a step reads
    nothing that others change while it is under way.
    """

    def __init__(self, clock: Clock, runtime: ClockRuntime, on_decode: Callable[[Decode], object]) -> None:
        """Serve `runtime`; `on_decode` is called with every decode."""
        self._clock = clock
        self._scheduler = Scheduler(runtime)
        self._scheduler.on_decode = on_decode
        self._inbox: asyncio.Queue[Work[Any] | str] = asyncio.Queue()
        self._task = asyncio.ensure_future(self._serve())

    async def run(self, work: Work[Any]) -> Any:
        """Do the work and return what came of it, as `Engine.run` does."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        work.deliver = lambda answer: loop.call_at(self._clock.read(), _resolve, future, answer)
        # Its default was bound before time became virtual.
        work.timings.submitted_s = self._clock.read()
        self._inbox.put_nowait(work)
        try:
            answer = await future
        except asyncio.CancelledError:
            work.is_cancelled = True
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def release(self, session_id: str) -> None:
        """Let the session's slot go first when another session needs one."""
        self._inbox.put_nowait(session_id)

    def stop(self) -> None:
        """Do nothing more, and answer nobody."""
        self._task.cancel()

    async def _serve(self) -> None:
        while True:
            await self._receive()
            with self._clock.apart():
                self._scheduler.wait_for_turn()
                self._scheduler.step()
                ended_s = self._clock.read()
            await self._until(ended_s + _SAME_MOMENT_S)

    async def _receive(self) -> None:
        """Handle what comes in until a step is due; asked again whenever something came."""
        while True:
            while not self._inbox.empty():
                self._handle(self._inbox.get_nowait())
            due_s = self._scheduler.due_s()
            if due_s <= self._clock.read():
                return
            try:
                async with asyncio.timeout_at(None if due_s == math.inf else due_s):
                    self._handle(await self._inbox.get())
            except TimeoutError:
                return
            await self._until(self._clock.read() + _SAME_MOMENT_S)

    async def _until(self, time_s: float) -> None:
        await asyncio.sleep(time_s - self._clock.read())

    def _handle(self, item: Work[Any] | str) -> None:
        if isinstance(item, Work):
            self._scheduler.add(item)
        else:
            self._scheduler.release(item)


def _resolve(future: asyncio.Future[Any], answer: object) -> None:
    if not future.done():
        future.set_result(answer)
