"""The speculative cycle: draft, verify, commit, yield.

A cycle with an empty draft is plain decoding, so there is no other loop to fall back to.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.drafter import Draft, Drafter
from orchestrator.target import Verification
from services.frame.digest import TokenSequence
from services.frame.spans import child_span
from services.frame.telemetry import Telemetry


class Target(Protocol):
    """Decides every token."""

    @property
    def num_resyncs(self) -> int:
        """Times that the target had to be brought back to the sequence."""

    async def verify(self, sequence: TokenSequence, draft_tokens: Sequence[int]) -> Verification:
        """Verify draft tokens after the sequence; none is plain decoding."""


@dataclass(frozen=True)
class Cycle:
    """One proposal, possibly empty, and one verification. `tokens` are what it committed."""

    index: int
    draft: Draft
    verification: Verification
    tokens: Sequence[int]


async def run_cycles(
    sequence: TokenSequence,
    target: Target,
    drafter: Drafter,
    choose_num_draft_tokens: Callable[[], int],
    *,
    max_length: int,
    telemetry: Telemetry,
) -> AsyncGenerator[Cycle, None]:
    """Extend the sequence cycle by cycle, until the model ends the generation or `max_length` tokens are reached."""
    index = 0
    while len(sequence) < max_length:
        with child_span(telemetry, "cycle") as span:
            # A cycle commits at most one token more than it drafts.
            num_draft_tokens = min(choose_num_draft_tokens(), max_length - len(sequence) - 1)
            draft = await drafter.propose(sequence, num_draft_tokens)
            verification = await target.verify(sequence, draft.tokens)
            verdict = verification.result
            tokens = [*draft.tokens[: verdict.num_accepted], verdict.next_token]
            sequence.extend(tokens)
            span.set_attributes(
                {
                    "outrider.cycle.index": index,
                    "outrider.cycle.num_draft_tokens": len(draft.tokens),
                    "outrider.cycle.num_accepted": verdict.num_accepted,
                    "outrider.cycle.drafter": draft.drafter,
                }
            )
        yield Cycle(index, draft, verification, tokens)
        if verdict.is_end_of_generation:
            return
        index += 1
