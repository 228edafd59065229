"""A piece of work for the engine: a prefix, rows after it, what to do with their logits, and where its time went."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Generic, TypeVar

from outrider.v1.target_pb2 import Quote
from services.engine.errors import EngineError, WorkCancelledError, WorkTimeoutError
from services.engine.runtime.interface import Logits
from services.engine.scheduling.slots import Slot

ResultT = TypeVar("ResultT")
# Decodes that work lets pass, for each piece of work there is, before it goes first.
PATIENCE = 4
# Rows without logits beyond which work is a prompt: what a cycle brings, and what a cache lacks after a few, is less.
_FEW_ROWS = 8


@dataclass(frozen=True)
class Prefix:
    """The committed sequence that work builds on: a cached part, named by its digest, and the tokens that follow it."""

    session_id: str
    cached_length: int
    cached_digest: bytes
    tokens: Sequence[int]

    @property
    def length(self) -> int:
        """Number of tokens of the whole sequence."""
        return self.cached_length + len(self.tokens)


@dataclass(frozen=True)
class Miss:
    """The engine does not hold the prefix; this is what it holds."""

    held_length: int
    held_digest: bytes


class Phase(IntEnum):
    """What the engine's thread does at a moment."""

    WAITING = 0
    """Nothing: for work, or for the company of sessions that are expected."""
    TURN = 1
    """Nothing: another process has its turn on the cores."""
    PLANNING = 2
    """It chooses rows for a decode and puts them together."""
    DECODING = 3
    """The model computes."""
    SAMPLING = 4
    """It chooses tokens from logits, cuts caches and answers, session after session."""


class Phases:
    """Seconds spent in each phase so far. One thread owns it; times are those of `time.perf_counter`."""

    def __init__(self, now_s: float) -> None:
        """Begin now, with waiting."""
        self._spent_s = [0.0] * len(Phase)
        self._phase = Phase.WAITING
        self._since_s = now_s

    def enter(self, phase: Phase, now_s: float) -> None:
        """Another phase begins."""
        self._spent_s[self._phase] += now_s - self._since_s
        self._phase, self._since_s = phase, now_s

    def spent_s(self, now_s: float) -> list[float]:
        """Return what each phase took up to now, the one under way included."""
        spent_s = list(self._spent_s)
        spent_s[self._phase] += now_s - self._since_s
        return spent_s


@dataclass
class WorkTimings:
    """Where the time of a piece of work went, in seconds of `time.perf_counter`.

    Before the engine heard of it another process had its turn on the cores for `unheard_turn_s`. From `admitted_s` on,
    when it had a slot and the engine's attention, the engine spent `phases_s` with what it did, by `Phase`; of that it
    computed this work for `decode_s`, in `num_decodes` decodes, the last of which is the engine's `decode_index`th and
    had `batch_rows` rows of all sessions.
    """

    submitted_s: float = field(default_factory=time.perf_counter)
    admitted_s: float = 0.0
    started_s: float = 0.0
    finished_s: float = 0.0
    decode_s: float = 0.0
    num_decodes: int = 0
    decode_index: int = 0
    batch_rows: int = 0
    unheard_turn_s: float = 0.0
    phases_s: list[float] = field(default_factory=lambda: [0.0] * len(Phase))

    @property
    def turn_s(self) -> float:
        """How long another process had its turn on the cores."""
        return self.unheard_turn_s + self.phases_s[Phase.TURN]

    def admit(self, phases: Phases, now_s: float) -> None:
        """The work has a slot, and goes into the next decode that begins."""
        self.admitted_s = now_s
        self._spent_before_s = phases.spent_s(now_s)

    def finish(self, phases: Phases, now_s: float) -> None:
        """There is an answer."""
        self.finished_s = now_s
        self.started_s = self.started_s or now_s
        if self.admitted_s:
            pairs = zip(self._spent_before_s, phases.spent_s(now_s), strict=True)
            self.phases_s = [after - before for before, after in pairs]


class Work(ABC, Generic[ResultT]):
    """One request in the engine. `next_step` runs in the engine's thread and must not block.

    Attributes:
        waits_for_slot: whether to queue where every slot is needed by others, or to be refused at once.
        is_awaited: whether its session goes on once there is an answer, and is soon back.
        timings: where its time went, known in full once there is an answer.
        slot: where it is evaluated, once it has one.
        num_cached: tokens of the prefix that were there when it got its slot.
        pending: rows that are still to be evaluated there, the last `num_outputs` of them with logits.
        num_passed_over: decodes in a row that it had no part in.
        goes_on: whether it has asked for more, and goes on from token to token.
        held_length: tokens of the sequence that stay in the cache when it is finished.
        num_tokens: new ones of these: how much the work was worth.
        worths: tokens that each of its last rows brings in expectation, where it may do without these rows.
        quote: what such rows cost in the decode that its last logits are of, where it `wants_quote`.
    """

    waits_for_slot = True
    is_awaited = True
    wants_quote = False
    quote: Quote | None = None
    worths: Sequence[float] = ()
    slot: Slot
    result: ResultT

    def __init__(
        self, prefix: Prefix, rows_after_prefix: Sequence[int] = (), *, deadline_s: float | None = None
    ) -> None:
        """Ask for logits of the prefix's last token and of each of `rows_after_prefix`.

        `deadline_s` is in seconds of `time.perf_counter`.
        """
        self.prefix = prefix
        self.deadline_s = deadline_s
        self.is_cancelled = False
        self.timings = WorkTimings()
        self.pending: Sequence[int] = [*prefix.tokens, *rows_after_prefix]
        self.num_outputs = 1 + len(rows_after_prefix)
        self.num_cached = 0
        self.num_passed_over = 0
        self.goes_on = False
        self.held_length = 0
        self.num_tokens = 0
        # The engine's thread hands over the result, or why there is none.
        self.deliver: Callable[[ResultT | Miss | Exception], object] = lambda answer: None

    @abstractmethod
    def next_step(self, logits: Logits, held: Sequence[int]) -> Sequence[int]:
        """Take the logits [rows asked for, vocabulary], and the sequence up to the last of these rows.

        Both are valid only during the call. Return tokens to evaluate next, with logits for the last one; or `finish`.
        """

    def rows_within(self, limit: int) -> int:
        """Return how many pending rows go into a decode with room for so many. Those with logits are not parted."""
        num_rows = len(self.pending)
        return num_rows if num_rows <= limit else max(0, min(limit, num_rows - self.num_outputs))

    def outputs_among(self, num_rows: int) -> int:
        """Return how many of the first so many pending rows have logits."""
        return max(0, num_rows - (len(self.pending) - self.num_outputs))

    @property
    def num_tentative(self) -> int:
        """How many of the last pending rows may be taken back: those of a draft."""
        return int(self.goes_on)

    def advance(self, logits: Logits, held: Sequence[int]) -> None:
        """Take logits, as `next_step` does, and have evaluated next what it wants."""
        self.pending = self.next_step(logits, held)
        self.num_outputs, self.goes_on = 1, True

    def shorten(self, num_rows: int) -> None:
        """Do without the last so many rows, which have worths and are pending."""
        self.pending = self.pending[: len(self.pending) - num_rows]
        self.num_outputs -= num_rows
        self.worths = self.worths[: len(self.worths) - num_rows]

    def refusal(self) -> EngineError | None:
        """Return why it is not to be done any more, if so."""
        if self.is_cancelled:
            return WorkCancelledError("the request was given up")
        if self.deadline_s is not None and time.perf_counter() > self.deadline_s:
            return WorkTimeoutError("the deadline passed before the answer was ready")
        return None

    def finish(self, result: ResultT, held_length: int, num_tokens: int = 1) -> Sequence[int]:
        """Set what came of it, and return no more tokens."""
        self.result, self.held_length, self.num_tokens = result, held_length, num_tokens
        return ()

    @property
    def is_prompt(self) -> bool:
        """Whether more is pending than what a few cycles bring."""
        return len(self.pending) > self.num_outputs + _FEW_ROWS


def plan_rows(works: Sequence[Work[Any]], max_rows: int, prompt_rows: int) -> list[int]:
    """Say how many rows of each work go into the next decode. Pure.

    Works that finish with few rows go first, so that a long prompt never keeps them waiting; prompts share what is
    left, at most `prompt_rows`. Of two prompts the shorter one goes first, so that it does not queue behind long ones.
    Rows with logits are never parted from each other. What was passed over for long goes before all: nothing is passed
    over for more decodes in a row than PATIENCE and one for each work.
    """
    num_rows = [0] * len(works)
    is_short = [len(work.pending) <= max_rows and not work.is_prompt for work in works]
    room, prompt_room = max_rows, min(prompt_rows, max_rows)
    patience = PATIENCE * len(works)

    def urgency(index: int) -> tuple[int, bool, int]:
        work = works[index]
        num_waiting = 0 if is_short[index] else len(work.pending)
        return -max(work.num_passed_over, patience - 1), not is_short[index], num_waiting

    for index in sorted(range(len(works)), key=urgency):
        rows = len(works[index].pending)
        if is_short[index]:
            num_rows[index] = rows if rows <= room else 0
        else:
            num_rows[index] = works[index].rows_within(min(room, prompt_room))
            prompt_room -= num_rows[index]
        room -= num_rows[index]
    return num_rows
