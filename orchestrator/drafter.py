"""What a drafter is, and how several make one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.frame.digest import TokenSequence

# The name of a draft that nobody made.
NOBODY = "none"


@dataclass(frozen=True)
class Draft:
    """Draft tokens, who was asked for them, and the time they took: waited for, and computed by the service's account.

    A drafter that was asked in vain has its name on an empty draft: it is what the cycle waited for.
    """

    tokens: Sequence[int] = ()
    waited_s: float = 0.0
    computed_s: float = 0.0
    drafter: str = NOBODY


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

    async def propose(self, sequence: TokenSequence, num_draft_tokens: int) -> Draft:
        """Return at most so many tokens that may follow the sequence. One that does not try answers `Draft()`."""

    async def close(self) -> None:
        """The generation is over."""


class NoDrafter:
    """Proposes nothing, and says why."""

    num_resyncs = 0
    num_fallbacks = 0

    def __init__(self, problem: str) -> None:
        self.problem = problem

    async def propose(self, sequence: TokenSequence, num_draft_tokens: int) -> Draft:
        """Return the draft of nobody."""
        return Draft()

    async def close(self) -> None:
        """Do nothing."""


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

    async def propose(self, sequence: TokenSequence, num_draft_tokens: int) -> Draft:
        """Return the first draft that somebody made."""
        for drafter in self._drafters:
            draft = await drafter.propose(sequence, num_draft_tokens)
            if draft.drafter != NOBODY:
                return draft
        return Draft()

    async def close(self) -> None:
        """Close all of them."""
        for drafter in self._drafters:
            await drafter.close()
