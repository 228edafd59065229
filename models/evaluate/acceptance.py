"""How many draft tokens a target accepts.

The seed decides the text, so whatever is drafted the target writes the same tokens, and a draft token whose forerunners
were accepted was drafted after the text itself. So it is enough to ask at every position of the target's text whether
the draft, given the text before it and the same noise, chooses the same token; every cycle follows from these answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Acceptance:
    """Counts over all cycles; `num_accepted[j]` of the cycles had their draft tokens 0 to j accepted."""

    num_cycles: int
    num_accepted: Sequence[int]

    @property
    def per_position(self) -> list[float]:
        """The share of draft tokens accepted at each position, given that the ones before it were accepted.

        0 at a position that was never reached.
        """
        reached = [self.num_cycles, *self.num_accepted]
        return [
            accepted / before if before else 0.0 for before, accepted in zip(reached, self.num_accepted, strict=False)
        ]

    @property
    def mean_accepted_length(self) -> float:
        """Tokens per cycle, the target's own one included. Raises ValueError without a cycle."""
        if not self.num_cycles:
            raise ValueError("no cycle fits into the texts")
        return 1.0 + sum(self.num_accepted) / self.num_cycles


def count_acceptance(texts: Iterable[Sequence[bool]], num_draft_tokens: int) -> Acceptance:
    """Runs the cycles over each text, told for each of its tokens whether the draft chooses the same.

    A cycle that would draft past the end of its text is not counted: what it would have accepted is unknown.
    """
    num_cycles = 0
    num_accepted = [0] * num_draft_tokens
    for agrees in texts:
        start = 0
        while start + num_draft_tokens < len(agrees):
            cycle = agrees[start : start + num_draft_tokens]
            run = next((place for place, same in enumerate(cycle) if not same), num_draft_tokens)
            for place in range(run):
                num_accepted[place] += 1
            num_cycles += 1
            start += run + 1
    return Acceptance(num_cycles, num_accepted)
