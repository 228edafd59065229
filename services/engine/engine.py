"""The thread that owns the model: continuous batching over all sessions.

Whatever is ready goes into the next decode, all sessions together. Everything else talks to the thread through `run`.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from services.engine.errors import (
    DecodeError,
    EngineError,
    EngineStoppedError,
    QueueFullError,
    WorkCancelledError,
    WorkTimeoutError,
)
from services.engine.plan import plan_rows
from services.engine.runtime import Logits, Runtime, Segment
from services.engine.slots import Slot, SlotTable
from services.engine.work import Finished, Miss, Outcome, Work

_log = logging.getLogger(__name__)
# Decodes that may fail one after the other before the engine gives up and its supervisor starts it again.
_MAX_FAILURES = 3
# Tokens of a prompt that another session must hold for its cache to be shared.
_WORTH_SHARING = 8


@dataclass(eq=False)
class _Active:
    """Work that has a slot: `pending` rows are still to be evaluated, the last `num_outputs` of them with logits."""

    work: Work
    slot: Slot
    pending: Sequence[int]
    num_outputs: int


class Engine:
    """Continuous batching over one runtime. `start` it, `run` work from any event loop, `stop` it."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        max_queued: int = 256,
        prefill_rows: int = 256,
        on_failure: Callable[[str], object] = _log.critical,
    ) -> None:
        """Serve `runtime`: at most `max_queued` waiting works, at most `prefill_rows` prompt rows beside other rows.

        `on_failure` is called from the engine's thread, with one sentence, when the engine cannot go on.
        """
        self._on_failure = on_failure
        self.on_decode: Callable[[int, float], object] = lambda num_rows, duration_s: None
        self._num_failures = 0
        self._runtime = runtime
        self._slots = SlotTable(runtime.num_slots)
        self._max_queued = max_queued
        self._prefill_rows = min(prefill_rows, runtime.max_batch_rows)
        self._inbox: SimpleQueue[Work | str | None] = SimpleQueue()
        self._waiting: deque[Work] = deque()
        self._active: list[_Active] = []
        self._num_unanswered = 0
        self._is_stopping = False
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)

    @property
    def num_waiting(self) -> int:
        """Pieces of work that have no slot yet."""
        return len(self._waiting)

    @property
    def num_active(self) -> int:
        """Pieces of work that have a slot."""
        return len(self._active)

    @property
    def num_evictions(self) -> int:
        """Sessions that lost their slot to another one."""
        return self._slots.num_evictions

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the decode under way, answer what is left with EngineStoppedError, free the runtime."""
        self._is_stopping = True
        self._inbox.put(None)
        self._thread.join()
        self._runtime.close()

    async def run(self, work: Work) -> Outcome:
        """Do the work and return what became of it. Cancelling the caller cancels the work.

        Raises:
            QueueFullError: too much work is waiting already.
            EngineStoppedError: the engine is stopping.
        """
        if self._is_stopping:
            raise EngineStoppedError("the engine is stopping")
        num_waiting = self._num_unanswered - self._runtime.num_slots
        if num_waiting >= self._max_queued:
            raise QueueFullError(f"{num_waiting} requests are waiting already")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        work.deliver = lambda outcome: loop.call_soon_threadsafe(_resolve, future, outcome)
        self._num_unanswered += 1
        self._inbox.put(work)
        try:
            return await future
        except asyncio.CancelledError:
            work.is_cancelled = True
            raise
        finally:
            self._num_unanswered -= 1

    def release(self, session_id: str) -> None:
        """Let the session's slot go first when another session needs one."""
        self._inbox.put(session_id)

    def _serve(self) -> None:
        try:
            while not self._is_stopping:
                self._receive()
                self._admit()
                if self._active:
                    self._step()
        except Exception as error:
            _log.exception("the engine failed")
            self._is_stopping = True
            self._on_failure(f"the engine cannot go on: {error}")
        self._answer_rest()

    def _answer_rest(self) -> None:
        stopped = EngineStoppedError("the engine is stopping")
        for active in self._active:
            self._deliver(active.work, stopped, len(active.slot.held))
        while not self._inbox.empty():
            self._receive()
        for work in self._waiting:
            self._deliver(work, stopped, 0)

    def _receive(self) -> None:
        """Take everything out of the inbox; sleep on it only when there is nothing else to do."""
        is_idle = not (self._active or self._waiting)
        while is_idle or not self._inbox.empty():
            is_idle = False
            match self._inbox.get():
                case Work() as work:
                    self._waiting.append(work)
                case str(session_id):
                    self._slots.release(session_id)

    def _admit(self) -> None:
        """Give slots to waiting work, first come first served; what cannot have one yet goes on waiting."""
        for work in list(self._waiting):
            if self._try_admit(work):
                self._waiting.remove(work)

    def _try_admit(self, work: Work) -> bool:
        if refusal := _given_up(work):
            self._deliver(work, refusal, 0)
            return True
        prefix = work.prefix
        slot = self._slots.find(prefix.session_id)
        if slot is not None and slot.is_busy:
            return False
        if prefix.cached_length and not (slot and slot.held.has_prefix(prefix.cached_length, prefix.cached_digest)):
            held_length = len(slot.held) if slot else 0
            digest = slot.held.digests[-1] if slot else b""
            self._deliver(work, Miss(held_length, digest), held_length)
            return True
        slot = self._slots.take(prefix.session_id)
        if slot is None:
            return False
        try:
            # The last token of the prefix is always evaluated: its logits are not kept.
            self._reuse(slot, prefix.cached_length, list(prefix.tokens[:-1]))
        except DecodeError as error:
            self._finish(work, slot, error)
            return True
        pending = [*prefix.tokens[len(slot.held) - prefix.cached_length :], *work.rows_after_prefix]
        self._active.append(_Active(work, slot, pending, 1 + len(work.rows_after_prefix)))
        return True

    def _step(self) -> None:
        """Evaluate what is ready: one decode, or as many as the runtime needs."""
        by_slot: dict[int, _Active] = {}
        segments: list[Segment] = []
        for active, num_rows in self._plan():
            if num_rows:
                by_slot[active.slot.index] = active
                num_outputs = active.num_outputs if num_rows == len(active.pending) else 0
                tokens = active.pending[:num_rows]
                segments.append(Segment(active.slot.index, len(active.slot.held), tokens, num_outputs))
        for group in self._runtime.group(segments) if segments else ():
            # Work that failed in an earlier group has no business in a later one.
            batch = [(by_slot[segment.slot], segment) for segment in group if by_slot[segment.slot] in self._active]
            if batch:
                self._decode(batch)

    def _decode(self, batch: Sequence[tuple[_Active, Segment]]) -> None:
        started_s = time.perf_counter()
        for active, _ in batch:
            active.work.timings.started_s = active.work.timings.started_s or started_s
        try:
            logits = self._runtime.decode([segment for _, segment in batch])
        except DecodeError as error:
            _log.error("decode failed: %s", error)
            for active, _ in batch:
                self._active.remove(active)
                self._finish(active.work, active.slot, error)
            self._num_failures += 1
            if self._num_failures == _MAX_FAILURES:
                raise
            return
        self._num_failures = 0
        decode_s = time.perf_counter() - started_s
        num_rows = sum(len(segment.tokens) for _, segment in batch)
        self.on_decode(num_rows, decode_s)
        for (active, segment), rows in zip(batch, logits, strict=True):
            timings = active.work.timings
            timings.decode_s += decode_s
            timings.num_decodes += 1
            timings.batch_rows = num_rows
            active.slot.held.extend(segment.tokens)
            active.pending = active.pending[len(segment.tokens) :]
            if segment.num_outputs:
                self._advance(active, rows)

    def _plan(self) -> list[tuple[_Active, int]]:
        """Drop what was given up, and say how many rows of each active work go into the next decode."""
        for active in list(self._active):
            if refusal := _given_up(active.work):
                self._active.remove(active)
                self._finish(active.work, active.slot, refusal)
        num_rows = plan_rows(
            [(len(active.pending), active.num_outputs) for active in self._active],
            self._runtime.max_batch_rows,
            self._prefill_rows,
        )
        return list(zip(self._active, num_rows, strict=True))

    def _advance(self, active: _Active, logits: Logits) -> None:
        try:
            step = active.work.take(logits, active.slot.held.tokens)
            if isinstance(step, Finished):
                self._cut(active.slot, step.keep_length)
        except Exception as error:  # a defect in one request must not take the other sessions down
            _log.exception("work of session %s failed", active.work.prefix.session_id)
            self._active.remove(active)
            self._finish(active.work, active.slot, error)
            return
        if isinstance(step, Finished):
            self._active.remove(active)
            self._finish(active.work, active.slot, step.value)
        else:
            active.pending, active.num_outputs = step.tokens, 1

    def _reuse(self, slot: Slot, cached_length: int, tokens: list[int]) -> None:
        """Cut the slot to what it has in common with the prefix, or take that from a slot that has more of it."""
        length = slot.held.common_length(cached_length, tokens)
        self._cut(slot, length)
        if cached_length or not self._runtime.can_copy:
            return
        donor = max(self._slots.slots, key=lambda other: other.held.common_length(0, tokens))
        shared = donor.held.common_length(0, tokens)
        if shared >= length + _WORTH_SHARING:
            self._cut(slot, 0)
            self._runtime.copy(donor.index, slot.index, shared)
            slot.held.extend(tokens[:shared])

    def _cut(self, slot: Slot, length: int) -> None:
        if length < len(slot.held):
            self._runtime.cut(slot.index, length)
            slot.held.cut(length)

    def _finish(self, work: Work, slot: Slot, value: object) -> None:
        slot.is_busy = False
        self._deliver(work, value, len(slot.held))

    def _deliver(self, work: Work, value: object, held_length: int) -> None:
        work.timings.finished_s = time.perf_counter()
        work.timings.started_s = work.timings.started_s or work.timings.finished_s
        with contextlib.suppress(RuntimeError):  # the caller's event loop has closed: nobody is waiting any more
            work.deliver(Outcome(value, held_length, work.timings))


def _given_up(work: Work) -> EngineError | None:
    if work.is_cancelled:
        return WorkCancelledError("the request was given up")
    if work.deadline_s is not None and time.perf_counter() > work.deadline_s:
        return WorkTimeoutError("the deadline passed before the answer was ready")
    return None


def _resolve(future: asyncio.Future[Outcome], outcome: Outcome) -> None:
    if not future.done():
        future.set_result(outcome)
