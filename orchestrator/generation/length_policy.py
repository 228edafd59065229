"""How many tokens to draft: what implements `orchestrator.generation.cycle.LengthPolicy`.

A policy sees every cycle of its generation: what was drafted and how sure the draft was of each token, what was
accepted, and what drafting and verifying took (`Draft`, `Verification`).
"""

from orchestrator.generation.cycle import Cycle


class FixedLength:
    """As many tokens in every cycle, as far as there is room."""

    def __init__(self, num_draft_tokens: int) -> None:
        self._num_draft_tokens = num_draft_tokens

    def choose(self, most: int) -> int:
        """Return that number, or `most`."""
        return min(self._num_draft_tokens, most)

    def observe(self, cycle: Cycle) -> None:
        """Learn nothing."""
