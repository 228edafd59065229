"""What a drafter is, when one is left alone, and how several make one."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

from outrider.v1 import draft_pb2, generation_pb2
from services.session.sequence import TokenSequence

# What settings, traces and metrics call those who draft; the last is the name of a draft that nobody made.
REMOTE, NGRAM, PREDICTION, NOBODY = "remote", "ngram", "prediction", "none"
DRAFTERS: dict[str, generation_pb2.Drafter.ValueType] = {
    "auto": generation_pb2.DRAFTER_AUTO,
    REMOTE: generation_pb2.DRAFTER_REMOTE,
    NGRAM: generation_pb2.DRAFTER_NGRAM,
    PREDICTION: generation_pb2.DRAFTER_PREDICTION,
    NOBODY: generation_pb2.DRAFTER_NONE,
}


@dataclass(frozen=True)
class Draft:
    """Draft tokens, who was asked, and the time they took: waited for; queued, computed by the service's account.

    After a prompt that had to be read first, the times say nothing of those of other drafts.

    A model's draft has, for each token, the probability of it at temperature 1, and the margin of the best score over
    the second best. Margins of a draft that was read in a text are lengths of its match there. A drafter that was asked
    in vain has its name on an empty draft: it is what the cycle waited for. Of several draft services `service` is the
    one that drafted, by its place among them.

    While a service `is_reading` ahead nothing is waited for. Once it has, `read_s` is what it computed for that.
    """

    tokens: Sequence[int] = ()
    probabilities: Sequence[float] = ()
    margins: Sequence[float] = ()
    waited_s: float = 0.0
    computed_s: float = 0.0
    drafter: str = NOBODY
    queued_s: float = 0.0
    # In which another process had the cores of the service.
    turn_s: float = 0.0
    follows_prompt: bool = False
    service: int = 0
    is_reading: bool = False
    read_s: float | None = None

    def first(self, length: int) -> Self:
        """Return the first so many tokens of it."""
        if length >= len(self.tokens):
            return self
        return replace(
            self,
            tokens=self.tokens[:length],
            probabilities=self.probabilities[:length],
            margins=self.margins[:length],
        )


@dataclass(frozen=True)
class Wanted:
    """How many draft tokens are wanted at most, and when to be content with fewer.

    `num_looked_up` is the number for drafts that take no time; the same where it is absent. `is_better` says of one of
    these whether it is worth more than what a model would say. A draft that takes longer than `limit_s` is not waited
    for. Of several draft services `service` is to draft; where it `reads_ahead`, it first reads what it lacks, while
    the session goes on without it. `choice` says why, to whoever looks at it.
    """

    num_draft_tokens: int
    early_end: draft_pb2.EarlyEnd | None = None
    num_looked_up: int | None = None
    is_better: Callable[[Draft], bool] = lambda draft: False
    limit_s: float = math.inf
    service: int = 0
    reads_ahead: bool = False
    choice: generation_pb2.LengthChoice | None = None

    @property
    def most_looked_up(self) -> int:
        """How many tokens a draft that takes no time may have."""
        return self.num_draft_tokens if self.num_looked_up is None else self.num_looked_up


class Drafter(Protocol):
    """Proposes tokens. Whatever goes wrong, it answers: an empty draft is plain decoding."""

    @property
    def num_resyncs(self) -> int:
        """Times that a service had to be brought back to the sequence."""

    @property
    def num_fallbacks(self) -> int:
        """Times that a service that worked was lost."""

    @property
    def problem(self) -> str:
        """What keeps a service from being used, in one sentence; empty where nothing does."""

    def room(self, length: int) -> int:
        """Return the most tokens that it proposes after so many, as far as is known; 0 where it would not try."""

    async def propose(self, sequence: TokenSequence, wanted: Wanted) -> Draft:
        """Return at most so many tokens that may follow the sequence. One that does not try answers `Draft()`.

        It proposes no more than `room` allows, however many are wanted.
        """

    async def close(self) -> None:
        """The generation is over."""


class NoDrafter:
    """Proposes nothing, and says why."""

    num_resyncs = 0
    num_fallbacks = 0

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def room(self, length: int) -> int:
        """Return 0."""
        return 0

    async def propose(self, sequence: TokenSequence, wanted: Wanted) -> Draft:
        """Return the draft of nobody."""
        return Draft()

    async def close(self) -> None:
        """Nothing was opened."""


class FirstDrafter:
    """Takes each cycle's draft from the first of its drafters that tries. Without any it proposes nothing."""

    def __init__(self, *drafters: Drafter) -> None:
        self._drafters = drafters

    @property
    def num_resyncs(self) -> int:
        """The sum of theirs."""
        return sum(drafter.num_resyncs for drafter in self._drafters)

    @property
    def num_fallbacks(self) -> int:
        """The sum of theirs."""
        return sum(drafter.num_fallbacks for drafter in self._drafters)

    @property
    def problem(self) -> str:
        """The first of theirs."""
        return next((drafter.problem for drafter in self._drafters if drafter.problem), "")

    def room(self, length: int) -> int:
        """Return the most that any of them proposes."""
        return max((drafter.room(length) for drafter in self._drafters), default=0)

    async def propose(self, sequence: TokenSequence, wanted: Wanted) -> Draft:
        """Return the first draft that somebody made."""
        for drafter in self._drafters:
            draft = await drafter.propose(sequence, wanted)
            if draft.drafter != NOBODY:
                return draft
        return Draft()

    async def close(self) -> None:
        """Close all of them."""
        for drafter in self._drafters:
            await drafter.close()


class Breaker:
    """A circuit breaker, open after a failure: nobody asks the service, but for one try each `retry_s` seconds.

    Shared by all sessions of a service, so that one of them finds out for all. A service whose answers are only late is
    not asked either, but that does not make it lost.
    """

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._next_try_s = 0.0
        self._is_disabled = False
        # An answer that was late has closed it since the last that was in time.
        self._is_excused = False
        self.reason = ""
        self.is_lost = False

    @property
    def is_disabled(self) -> bool:
        """Whether the service is of no use, whatever it answers yet."""
        return self._is_disabled

    @property
    def is_open(self) -> bool:
        """Whether the last try failed."""
        return bool(self.reason)

    def may_try(self) -> bool:
        """Whether to ask the service now. While open, this claims the try, so that only one caller makes it."""
        if not self.is_open:
            return True
        now_s = time.monotonic()
        if now_s < self._next_try_s:
            return False
        self._next_try_s = now_s + self._retry_s
        return True

    def fail(self, reason: str, *, is_late: bool = False) -> bool:
        """Note a failure; `is_late` where there was no answer in less time than a service may take.

        Return whether the service is lost since.
        """
        if self._is_disabled:
            return False
        was_lost = self.is_lost
        self.is_lost = was_lost or not is_late
        self.reason = reason
        self._next_try_s = time.monotonic() + self._retry_s
        return self.is_lost and not was_lost

    def hear(self) -> None:
        """Note an answer that nobody waited for any more: close, but once only until one comes in time."""
        if self.is_open and not self._is_disabled and not self._is_excused:
            self._is_excused = True
            self._close()

    def succeed(self) -> bool:
        """Note a success: close. Return whether it was open."""
        self._is_excused = False
        # Not for an answer that was on its way when the service was found to be of no use.
        if self._is_disabled or not self.is_open:
            return False
        self._close()
        return True

    def disable(self, reason: str) -> None:
        """Open until `enable`, without any try."""
        self._is_disabled = self.is_lost = True
        self.reason = reason
        self._next_try_s = math.inf

    def enable(self) -> None:
        """Close, whatever was."""
        self._is_disabled = self._is_excused = False
        self._close()

    def _close(self) -> None:
        self.reason = ""
        self.is_lost = False
