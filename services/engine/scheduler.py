"""Continuous batching: whatever is ready goes into the next decode, all sessions together. One thread owns it."""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from services.engine.errors import DecodeError, EngineError, WorkCancelledError, WorkTimeoutError
from services.engine.plan import Pending, plan_rows
from services.engine.runtime import Logits, Runtime, Segment
from services.engine.slots import Slot, SlotTable
from services.engine.work import Finished, Miss, Outcome, Work

_log = logging.getLogger(__name__)
# Decodes that may fail one after the other before the engine gives up and its supervisor starts it again.
_MAX_FAILURES = 3
# Share of a step that the sessions it answered are worth waiting for: many rows cost little more than few.
_GATHERING_SHARE = 0.1
# Answers after which a session is not waited for once that was in vain: those that end, or that draft elsewhere for
# long, cost little.
_NUM_UNAWAITED = 32


@dataclass(frozen=True)
class Decode:
    """One decode: when, in seconds of `time.perf_counter`, and which sessions gave how many rows, padding left out."""

    started_s: float
    ended_s: float
    sessions: Sequence[tuple[str, int]]
    is_verification: bool

    @property
    def num_rows(self) -> int:
        """Rows of all sessions."""
        return sum(num_rows for _, num_rows in self.sessions)


@dataclass(eq=False)
class _Active:
    """Work that has a slot: `pending` rows are still to be evaluated, the last `num_outputs` of them with logits."""

    work: Work
    slot: Slot
    pending: Sequence[int]
    num_outputs: int
    num_passed_over: int = 0


class Scheduler:
    """Gives slots to work, and rows of work to decodes of the runtime."""

    def __init__(self, runtime: Runtime, prefill_rows: int, copy_worth: int) -> None:
        """Serve `runtime`, with at most `prefill_rows` prompt rows beside other rows.

        A prompt takes what it shares with another session from there where that is more than `copy_worth` tokens.
        """
        self.on_decode: Callable[[Decode], object] = lambda decode: None
        self.slots = SlotTable(runtime.num_slots)
        self._runtime = runtime
        self._prefill_rows = min(prefill_rows, runtime.max_batch_rows)
        self._copy_worth = copy_worth
        self._waiting: deque[Work] = deque()
        self._active: list[_Active] = []
        self._num_failures = 0
        # Sessions that the last step answered and that may come back at once, and until when they are waited for.
        self.answered: set[str] = set()
        self.gather_until_s = 0.0

    @property
    def num_waiting(self) -> int:
        """Pieces of work that have no slot yet."""
        return len(self._waiting)

    @property
    def num_active(self) -> int:
        """Pieces of work that have a slot."""
        return len(self._active)

    def add(self, work: Work) -> None:
        """Take in work; its outcome is delivered by a later step."""
        self.answered.discard(work.prefix.session_id)
        self._waiting.append(work)

    def release(self, session_id: str) -> None:
        """Let the session's slot go first when another session needs one."""
        self.answered.discard(session_id)
        self.slots.release(session_id)

    def give_up_waiting(self) -> None:
        """Go on without the sessions that were waited for in vain."""
        for session_id in self.answered:
            if slot := self.slots.find(session_id):
                slot.num_unawaited = _NUM_UNAWAITED
        self.answered.clear()

    def step(self) -> None:
        """Give slots to waiting work, and evaluate what is ready: one decode, or as many as the runtime needs.

        Raises DecodeError when decodes fail again and again; the works concerned were told already.
        """
        self.answered.clear()
        started_s = time.perf_counter()
        self._drop_given_up()
        self._admit()
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
        ended_s = time.perf_counter()
        self.gather_until_s = ended_s + _GATHERING_SHARE * (ended_s - started_s)

    def end(self, error: EngineError) -> None:
        """Answer everything that is left with `error`."""
        for active in self._active:
            self._finish(active.work, active.slot, error)
        for work in self._waiting:
            self._deliver(work, error, 0)
        self._active.clear()
        self._waiting.clear()

    def _drop_given_up(self) -> None:
        for active in list(self._active):
            if refusal := _given_up(active.work):
                self._active.remove(active)
                self._finish(active.work, active.slot, refusal)

    def _admit(self) -> None:
        """Give slots to waiting work, first come first served; what cannot have one yet goes on waiting."""
        self._waiting = deque(work for work in self._waiting if not self._try_admit(work))

    def _try_admit(self, work: Work) -> bool:
        if refusal := _given_up(work):
            self._deliver(work, refusal, 0)
            return True
        prefix = work.prefix
        slot = self.slots.find(prefix.session_id)
        if slot is not None and slot.is_busy:
            return False
        if prefix.cached_length and not (slot and slot.held.has_prefix(prefix.cached_length, prefix.cached_digest)):
            held_length = len(slot.held) if slot else 0
            digest = slot.held.digests[-1] if slot else b""
            self._deliver(work, Miss(held_length, digest), held_length)
            return True
        slot = self.slots.take(prefix.session_id)
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

    def _plan(self) -> Iterable[tuple[_Active, int]]:
        """Say how many rows of each active work go into the next decode."""
        num_rows = plan_rows(
            [Pending(len(active.pending), active.num_outputs, active.num_passed_over) for active in self._active],
            self._runtime.max_batch_rows,
            self._prefill_rows,
        )
        for active, taken in zip(self._active, num_rows, strict=True):
            active.num_passed_over = 0 if taken else active.num_passed_over + 1
        return zip(self._active, num_rows, strict=True)

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
        sessions = [(active.work.prefix.session_id, len(segment.tokens)) for active, segment in batch]
        is_verification = all(len(active.pending) <= active.num_outputs + 1 for active, _ in batch)
        self.on_decode(Decode(started_s, started_s + decode_s, sessions, is_verification))
        for (active, segment), rows in zip(batch, logits, strict=True):
            timings = active.work.timings
            timings.decode_s += decode_s
            timings.num_decodes += 1
            timings.batch_rows = num_rows
            active.slot.held.extend(segment.tokens)
            active.pending = active.pending[len(segment.tokens) :]
            if segment.num_outputs:
                self._advance(active, rows)

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
        if cached_length:
            return
        donor = max(self.slots.slots, key=lambda other: other.held.common_length(0, tokens))
        shared = donor.held.common_length(0, tokens)
        if shared > length + self._copy_worth:
            self._cut(slot, 0)
            self._runtime.copy(donor.index, slot.index, shared)
            slot.held.extend(tokens[:shared])

    def _cut(self, slot: Slot, length: int) -> None:
        if length < len(slot.held):
            self._runtime.cut(slot.index, length)
            slot.held.cut(length)

    def _finish(self, work: Work, slot: Slot, value: object) -> None:
        slot.is_busy = False
        if slot.num_unawaited:
            slot.num_unawaited -= 1
        else:
            self.answered.add(work.prefix.session_id)
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
