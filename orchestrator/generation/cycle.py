"""The speculative cycle: draft, verify, commit, yield.

A cycle with an empty draft is plain decoding, so there is no other loop to fall back to.
"""

import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from opentelemetry.util.types import AttributeValue

from orchestrator.drafting.drafter import Draft, Drafter, Wanted
from orchestrator.drafting.experience import Experience
from orchestrator.drafting.prediction import is_followed
from orchestrator.peers.patient_session import ContextFullError
from orchestrator.peers.target import Verification
from outrider.v1 import generation_pb2
from services.frame.telemetry import Telemetry, child_span
from services.session.client import Limits
from services.session.sequence import TokenSequence


class Target(Protocol):
    """Decides every token."""

    @property
    def limits(self) -> Limits:
        """What it takes, as far as is known: another one may take its place at any time, and take less."""

    @property
    def num_resyncs(self) -> int:
        """Times that the target had to be brought back to the sequence."""

    async def verify(
        self, sequence: TokenSequence, draft_tokens: Sequence[int], chances: Sequence[float] | None = None
    ) -> Verification:
        """Verify draft tokens after the sequence; none is plain decoding. Raises ContextFullError.

        With the chance of each only what is worth its rows is verified.
        """


@dataclass(frozen=True)
class Cycle:
    """One proposal, possibly empty, of which `draft` is what was verified. `tokens` are what the cycle committed.

    `chances` are those of the draft's tokens, where they were weighed; `choice` says why so many were wanted.
    """

    index: int
    draft: Draft
    verification: Verification
    tokens: Sequence[int]
    chances: Sequence[float] = ()
    choice: generation_pb2.LengthChoice | None = None


class LengthPolicy(Protocol):
    """Decides how many tokens to draft. One is made for each generation; its choices cost or save time, never text.

    It sees every cycle of its generation: what was drafted and how sure the draft was of each token, what was accepted,
    and what drafting and verifying took.
    """

    def choose(self, most: int, num_left: float = math.inf) -> Wanted:
        """Return how many tokens to draft in the next cycle, 0 to `most`. At most `num_left` tokens are to come."""

    def chances(self, draft: Draft) -> Sequence[float] | None:
        """Return the chance of each token of a draft if those before it are accepted; None has all verified."""

    def observe(self, cycle: Cycle) -> None:
        """Take note of what came of a cycle."""


class FixedLength:
    """As many tokens in every cycle, as far as there is room."""

    def __init__(self, num_draft_tokens: int, experience: Experience | None = None) -> None:
        """What comes of the drafts goes into the `experience` of those who ask what drafts are worth."""
        self._num_draft_tokens = num_draft_tokens
        self._experience = experience

    def choose(self, most: int, num_left: float = math.inf) -> Wanted:
        """Return that number, or `most`."""
        return Wanted(min(self._num_draft_tokens, most), is_better=is_followed)

    def chances(self, draft: Draft) -> None:
        """Return None: the number is what was asked for."""

    def observe(self, cycle: Cycle) -> None:
        """Let others learn from what was accepted."""
        if self._experience is not None:
            self._experience.expect(cycle.draft)
            self._experience.observe(cycle.draft, cycle.verification.result.num_accepted)


async def run_cycles(
    sequence: TokenSequence,
    target: Target,
    drafter: Drafter,
    policy: LengthPolicy,
    *,
    max_length: int,
    telemetry: Telemetry,
) -> AsyncGenerator[Cycle, None]:
    """Extend the sequence cycle by cycle, until the model ends the generation or no more tokens are taken.

    That is at `max_length`, or at what the context of the target holds. Raises ServiceError.
    """
    index = 0
    while len(sequence) < min(max_length, target.limits.context_length):
        with child_span(telemetry, "cycle") as span:
            # A cycle commits at most one token more than it drafts.
            num_left = min(max_length, target.limits.context_length) - len(sequence)
            most = min(num_left - 1, target.limits.max_draft_tokens, drafter.room(len(sequence)))
            wanted = policy.choose(most, num_left)
            draft = await drafter.propose(sequence, wanted)
            chances = policy.chances(draft)
            try:
                verification = await target.verify(sequence, draft.tokens, chances)
            except ContextFullError:
                if index:
                    return
                raise
            draft = draft.first(verification.num_verified)
            verdict = verification.result
            tokens = [*draft.tokens[: verdict.num_accepted], verdict.next_token]
            sequence.extend(tokens)
            known = (chances or ())[: len(draft.tokens)]
            cycle = Cycle(index, draft, verification, tokens, known, wanted.choice)
            if span.is_recording():
                span.set_attributes(_attributes(cycle))
        policy.observe(cycle)
        yield cycle
        if verdict.is_end_of_generation:
            return
        index += 1


def _attributes(cycle: Cycle) -> dict[str, AttributeValue]:
    """Return what the span of a cycle says of it."""
    verdict = cycle.verification.result
    told: dict[str, AttributeValue] = {
        "outrider.cycle.index": cycle.index,
        "outrider.cycle.num_draft_tokens": len(cycle.draft.tokens),
        "outrider.cycle.num_accepted": verdict.num_accepted,
        "outrider.cycle.num_skipped": verdict.num_skipped,
        "outrider.cycle.drafter": cycle.draft.drafter,
    }
    if cycle.chances:
        told["outrider.cycle.chances"] = [round(chance, 4) for chance in cycle.chances]
    if cycle.choice is not None:
        told |= {f"outrider.choice.{field.name}": value for field, value in cycle.choice.ListFields()}
    return told
