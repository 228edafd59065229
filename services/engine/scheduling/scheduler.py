"""Continuous batching: whatever is ready goes into the next decode, all sessions together. One thread owns it."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from services.engine.errors import DecodeError, EngineError
from services.engine.runtime.interface import Logits, Runtime, Segment
from services.engine.scheduling.admission import Admission
from services.engine.scheduling.gathering import Gathering
from services.engine.scheduling.prices import Prices
from services.engine.scheduling.slots import SlotTable
from services.engine.scheduling.turns import Turns
from services.engine.scheduling.work import Phase, Phases, Work, plan_rows

_log = logging.getLogger(__name__)
# Decodes that may fail one after the other before the engine gives up and its supervisor starts it again.
_MAX_FAILURES = 3
# A decode of prompts takes at most as long as so many one-row decodes where sessions are between two cycles, else this
# long, as somebody may come. Rows of the first ones, before costs are known.
_PROMPT_DECODES, _PROMPT_S = 4.0, 0.25
_START_ROWS = 64
# How often work that waits for a slot looks for one that its session has left without a word.
_SLOT_POLL_S = 0.05


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


class Scheduler:
    """Gives rows of work to decodes of the runtime."""

    def __init__(self, runtime: Runtime, prompt_rows: int = 0, turns: Turns | None = None) -> None:
        """Serve `runtime`, with at most `prompt_rows` prompt rows where others wait; 0 takes what four tokens take.

        It decodes when `turns` says that it is its turn, and goes on until no work goes on from token to token.
        """
        self.on_decode: Callable[[Decode], object] = lambda decode: None
        self._runtime = runtime
        self._turns = turns or Turns()
        # Who decodes in turns with those who draft gains nothing by groups.
        self._gathering = Gathering(runtime.costs, parts=not self._turns.are_taken)
        # Kept once somebody asks for a quote.
        self._prices: Prices | None = None
        table = SlotTable(runtime.num_slots, self._gathering.is_expected, self._gathering.evicted)
        self.admission = Admission(runtime, table, self._begin, self._deliver)
        self._prompt_rows = prompt_rows
        self._active: list[Work[Any]] = []
        self._num_failures = 0
        self._phases = Phases(time.perf_counter())
        # When the last wait for a turn began and ended.
        self._turn_s = (0.0, 0.0)
        self._num_decodes = 0
        # Whether prompts had their turn since the last decode of others.
        self._had_prompts = False

    @property
    def num_waiting(self) -> int:
        """Pieces of work that have no slot yet."""
        return self.admission.num_waiting

    @property
    def num_active(self) -> int:
        """Pieces of work that have a slot."""
        return len(self._active)

    def add(self, work: Work[Any]) -> None:
        """Take in work; what comes of it is delivered by this or a later step."""
        session_id = work.prefix.session_id
        (turn_began_s, turn_ended_s), timings = self._turn_s, work.timings
        timings.unheard_turn_s = max(0.0, turn_ended_s - max(turn_began_s, timings.submitted_s))
        if work.wants_quote and self._prices is None:
            self._prices = Prices(self._runtime.costs, self._runtime.padded_rows, self._runtime.max_batch_rows)
        if self._prices is not None and not (self._active or self._gathering.num_present):
            self._prices.pause()
        self._gathering.arrived(session_id, timings.submitted_s)
        self.admission.add(work)

    def release(self, session_id: str) -> None:
        """Let the session's slot go first when another session needs one."""
        self._gathering.left(session_id)
        self.admission.release(session_id)

    def due_s(self) -> float:
        """Return when the next step is due, in seconds of `time.perf_counter`; infinity where nothing is to be done."""
        if not self._active:
            return time.perf_counter() + _SLOT_POLL_S if self.num_waiting else math.inf
        if self._must_go_on() or self._has_turn_of_prompts() or self._is_complete():
            return 0.0
        return self._gathering.until_s(*self._num_short_rows())

    def wait_for_turn(self) -> None:
        """Wait for the cores, if a step decodes. To be called before a step, as what comes meanwhile can be added."""
        began_s = time.perf_counter()
        self._phases.enter(Phase.TURN, began_s)
        if (self._active or self.num_waiting) and self._turns.begin(0.0):
            self._gathering.held_up()
        self._turn_s = began_s, time.perf_counter()
        self._phases.enter(Phase.PLANNING, self._turn_s[1])

    def step(self) -> None:
        """Give slots to waiting work, and evaluate what is due: one decode, or as many as the runtime needs.

        Raises DecodeError when decodes fail again and again; the works concerned were told already.
        """
        self._drop_given_up()
        self.admission.admit()
        by_slot: dict[int, Work[Any]] = {}
        segments: list[Segment] = []
        for work, num_rows in self._plan():
            if num_rows:
                slot = work.slot
                by_slot[slot.index] = work
                num_outputs = work.outputs_among(num_rows)
                num_tentative = work.num_tentative if num_outputs else 0
                tokens = work.pending[:num_rows]
                segments.append(Segment(slot.index, len(slot.held), tokens, num_outputs, num_tentative=num_tentative))
        try:
            for group in self._runtime.group(segments) if segments else ():
                # Work that failed in an earlier group has no business in a later one.
                batch = [(by_slot[segment.slot], segment) for segment in group if by_slot[segment.slot] in self._active]
                if batch:
                    self._decode(batch)
        finally:
            if not any(work.goes_on for work in self._active):
                self._turns.end()
            self._phases.enter(Phase.WAITING, time.perf_counter())

    def end(self, error: EngineError) -> None:
        """Answer everything that is left with `error`."""
        for work in self._active:
            self._finish(work, error)
        self._active.clear()
        self.admission.end(error)
        self._turns.close()

    def _drop_given_up(self) -> None:
        for work in list(self._active):
            if refusal := work.refusal():
                self._fail(work, refusal)

    def _begin(self, work: Work[Any]) -> None:
        """It has its slot now."""
        work.timings.admit(self._phases, time.perf_counter())
        self._active.append(work)

    def _short(self) -> list[Work[Any]]:
        """Return what is done after one decode of few rows."""
        return [work for work in self._active if not work.is_prompt]

    def _num_short_rows(self) -> tuple[int, int]:
        """Return the rows of those who are here, without those that are not worth it, and with padding as one decode.

        Where several decodes are quicker, it is as many rows as take their time.
        """
        short = self._short()
        spare = [0] * len(short) if self._prices is None else self._prices.num_spare(short)
        rows = [len(work.pending) - num_spare for work, num_spare in zip(short, spare, strict=True)]
        if not rows:
            return 0, 0
        slots = [work.slot.index for work in short]
        together = self._runtime.padded_rows(max(slots) - min(slots) + 1, max(rows))
        apart = sum(rows) + (len(rows) - 1) * self._runtime.costs.decode_in_rows
        return sum(rows), round(min(together, apart))

    def _must_go_on(self) -> bool:
        """Whether work that goes on from token to token is under way, or nothing but prompts is there."""
        short = self._short()
        return not short or any(work.goes_on for work in short)

    def _is_complete(self) -> bool:
        """Whether no more sessions go into one decode, or some had no place in the last one."""
        short = self._short()
        return len(short) >= self._most_together() or any(work.num_passed_over for work in short)

    def _most_together(self) -> int:
        return min(self._runtime.max_sessions, self._gathering.most_together() or self._runtime.max_sessions)

    def _has_turn_of_prompts(self) -> bool:
        """Whether prompts are due while others are waited for: once between two decodes of others."""
        return not self._had_prompts and len(self._short()) < len(self._active)

    def _plan(self) -> Iterable[tuple[Work[Any], int]]:
        """Say how many rows of each active work go into the next decode."""
        short = self._short()
        must_go_on = self._must_go_on()
        num_short_rows = (0, 0) if must_go_on else self._num_short_rows()
        is_gathering = (
            not (must_go_on or self._is_complete()) and self._gathering.until_s(*num_short_rows) > time.perf_counter()
        )
        if not must_go_on:
            most = self._most_together()
            for work in short[most:]:
                work.num_passed_over += not is_gathering
            short = short[:most]
        planned = [work for work in self._active if work.is_prompt or (work in short and not is_gathering)]
        takes_prompts = is_gathering or not (short and self._had_prompts)
        prompt_rows = self._most_prompt_rows() if takes_prompts else 0
        if self._prices is not None and not is_gathering:
            self._prices.resize(self._gathering.num_present)
            self._prices.shorten(short)
        num_rows = plan_rows(planned, self._runtime.max_batch_rows, prompt_rows)
        self._had_prompts = False
        for work, taken in zip(planned, num_rows, strict=True):
            work.num_passed_over = 0 if taken else work.num_passed_over + 1
            self._had_prompts |= taken > 0 and work.is_prompt
        if must_go_on:
            self._gathering.join(goes_on=any(work.goes_on for work in short))
        elif not is_gathering:
            self._gathering.begin(*num_short_rows)
        return zip(planned, num_rows, strict=True)

    def _most_prompt_rows(self) -> int:
        costs, most = self._runtime.costs, self._runtime.max_batch_rows
        if not (self._short() or self._gathering.is_between_cycles):
            return costs.rows_within(_PROMPT_S, _START_ROWS, most)
        return self._prompt_rows or costs.rows_within(_PROMPT_DECODES * costs.decode_s(1), _START_ROWS, most)

    def _decode(self, batch: Sequence[tuple[Work[Any], Segment]]) -> None:
        self._phases.enter(Phase.TURN, time.perf_counter())
        self._turns.begin(self._runtime.costs.usual_s(sum(len(segment.tokens) for _, segment in batch)))
        started_s = time.perf_counter()
        self._phases.enter(Phase.DECODING, started_s)
        for work, _ in batch:
            work.timings.started_s = work.timings.started_s or started_s
        try:
            logits = self._runtime.decode([segment for _, segment in batch])
        except DecodeError as error:
            _log.error("decode failed: %s", error)
            for work, _ in batch:
                self._fail(work, error)
            self._num_failures += 1
            if self._num_failures == _MAX_FAILURES:
                raise
            return
        self._num_failures = 0
        sessions = [(work.prefix.session_id, len(segment.tokens)) for work, segment in batch]
        is_verification = not any(work.is_prompt for work, _ in batch)
        decode = Decode(started_s, time.perf_counter(), sessions, is_verification)
        self._phases.enter(Phase.SAMPLING, decode.ended_s)
        self._num_decodes += 1
        self.on_decode(decode)
        if is_verification and self._prices is not None:
            most_rows = max(num_rows for _, num_rows in sessions)
            self._prices.decoded(started_s, decode.ended_s - started_s, most_rows)
            works = [work for work, _ in batch]
            self._prices.tell(works, self._gathering.num_present, self._gathering.num_drafting)
        for (work, segment), rows in zip(batch, logits, strict=True):
            timings = work.timings
            timings.decode_s += decode.ended_s - started_s
            timings.num_decodes += 1
            timings.decode_index = self._num_decodes
            timings.batch_rows = decode.num_rows
            work.slot.held.extend(segment.tokens)
            work.pending = work.pending[len(segment.tokens) :]
            if segment.num_outputs:
                self._advance(work, rows)

    def _advance(self, work: Work[Any], logits: Logits) -> None:
        # What a prompt had says nothing of the rows that its session will have.
        num_rows = 1 if work.is_prompt else work.num_outputs
        try:
            work.advance(logits, work.slot.held.tokens)
            if not work.pending:
                self.admission.cut(work.slot, work.held_length)
        except Exception as error:  # a defect in one request must not take the other sessions down
            _log.exception("work of session %s failed", work.prefix.session_id)
            self._fail(work, error)
            return
        if not work.pending:
            self._active.remove(work)
            if work.is_awaited:
                session_id = work.prefix.session_id
                self._gathering.answered(session_id, num_rows, work.num_tokens, may_draft=work.wants_quote)
            if self._prices is not None:
                self._prices.answered(work.num_tokens)
            self._finish(work, work.result)

    def _fail(self, work: Work[Any], error: Exception) -> None:
        """Answer work with an error; its session may not come back."""
        self._active.remove(work)
        self._gathering.left(work.prefix.session_id)
        self._finish(work, error)

    def _finish(self, work: Work[Any], answer: object) -> None:
        """Answer work that has a slot."""
        work.slot.is_busy = False
        self._deliver(work, answer)

    def _deliver(self, work: Work[Any], answer: object) -> None:
        work.timings.finish(self._phases, time.perf_counter())
        with contextlib.suppress(RuntimeError):  # the caller's event loop has closed: nobody is waiting any more
            work.deliver(answer)
