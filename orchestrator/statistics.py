"""What speculation did, in vLLM's counters: drafts, draft tokens, accepted tokens, accepted per position."""

from dataclasses import dataclass, field

from orchestrator.cycle import Cycle
from outrider.v1 import generation_pb2


@dataclass
class Statistics:
    """Sums over the cycles of one generation, or of many."""

    num_cycles: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_resyncs: int = 0
    num_fallbacks: int = 0
    num_accepted_per_position: list[int] = field(default_factory=list)
    target_waited_s: float = 0.0
    target_computed_s: float = 0.0
    draft_waited_s: float = 0.0
    draft_computed_s: float = 0.0

    def count(self, cycle: Cycle) -> None:
        """Add one cycle."""
        num_accepted = cycle.verification.result.num_accepted
        self.num_cycles += 1
        self.num_drafts += bool(cycle.draft.tokens)
        self.num_draft_tokens += len(cycle.draft.tokens)
        self.num_accepted_tokens += num_accepted
        self._count_positions([1] * num_accepted)
        self.target_waited_s += cycle.verification.waited_s
        self.target_computed_s += cycle.verification.computed_s
        self.draft_waited_s += cycle.draft.waited_s
        self.draft_computed_s += cycle.draft.computed_s

    def add(self, other: "Statistics") -> None:
        """Add another's sums."""
        for name in vars(self):
            if name != "num_accepted_per_position":
                setattr(self, name, getattr(self, name) + getattr(other, name))
        self._count_positions(other.num_accepted_per_position)

    def to_message(self) -> generation_pb2.SpeculationStatistics:
        """Return the counters as a message."""
        return generation_pb2.SpeculationStatistics(
            num_cycles=self.num_cycles,
            num_drafts=self.num_drafts,
            num_draft_tokens=self.num_draft_tokens,
            num_accepted_tokens=self.num_accepted_tokens,
            num_accepted_per_position=self.num_accepted_per_position,
            num_resyncs=self.num_resyncs,
            num_fallbacks=self.num_fallbacks,
        )

    def _count_positions(self, counts: list[int]) -> None:
        missing = len(counts) - len(self.num_accepted_per_position)
        self.num_accepted_per_position.extend([0] * missing)
        for position, count in enumerate(counts):
            self.num_accepted_per_position[position] += count
