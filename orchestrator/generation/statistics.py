"""What speculation did, in vLLM's counters: drafts, draft tokens, accepted tokens, accepted per position."""

from collections import Counter
from dataclasses import dataclass, field

from orchestrator.drafting.drafter import DRAFTERS
from orchestrator.generation.cycle import Cycle
from orchestrator.peers.target import Verification
from outrider.v1 import generation_pb2


@dataclass
class Statistics:
    """Sums over the cycles of one generation, or of many. What concerns drafts is counted by the drafter's name."""

    num_cycles: int = 0
    num_drafts: Counter[str] = field(default_factory=Counter)
    num_draft_tokens: Counter[str] = field(default_factory=Counter)
    num_accepted_tokens: Counter[str] = field(default_factory=Counter)
    # By position in the draft.
    num_accepted_per_position: Counter[int] = field(default_factory=Counter)
    num_skipped_tokens: int = 0
    num_resyncs: int = 0
    num_fallbacks: int = 0
    target_waited_s: float = 0.0
    target_queued_s: float = 0.0
    target_computed_s: float = 0.0
    draft_waited_s: float = 0.0
    draft_queued_s: float = 0.0
    draft_computed_s: float = 0.0
    # Of cycles of which it is known: what they took, and what plain decoding would have taken.
    modelled_s: float = 0.0
    plain_s: float = 0.0

    def count(self, cycle: Cycle) -> None:
        """Add one cycle."""
        draft, num_accepted = cycle.draft, cycle.verification.result.num_accepted
        self.num_cycles += 1
        if draft.tokens:
            self.num_drafts[draft.drafter] += 1
            self.num_draft_tokens[draft.drafter] += len(draft.tokens)
            self.num_accepted_tokens[draft.drafter] += num_accepted
            self.num_accepted_per_position.update(range(num_accepted))
        self.num_skipped_tokens += cycle.verification.result.num_skipped
        if cycle.verification.quote is not None:
            self.modelled_s += draft.waited_s + cycle.verification.waited_s
            self.plain_s += len(cycle.tokens) * cycle.verification.plain_s
        self.wait(cycle.verification)
        self.draft_waited_s += draft.waited_s
        self.draft_queued_s += draft.queued_s
        self.draft_computed_s += draft.computed_s

    def wait(self, verification: Verification) -> None:
        """Add the time that the target was waited for."""
        self.target_waited_s += verification.waited_s
        self.target_queued_s += verification.queued_s
        self.target_computed_s += verification.computed_s

    def add(self, other: "Statistics") -> None:
        """Add another's sums."""
        self.num_cycles += other.num_cycles
        self.num_drafts += other.num_drafts
        self.num_draft_tokens += other.num_draft_tokens
        self.num_accepted_tokens += other.num_accepted_tokens
        self.num_accepted_per_position += other.num_accepted_per_position
        self.num_skipped_tokens += other.num_skipped_tokens
        self.modelled_s += other.modelled_s
        self.plain_s += other.plain_s
        self.num_resyncs += other.num_resyncs
        self.num_fallbacks += other.num_fallbacks
        self.target_waited_s += other.target_waited_s
        self.target_queued_s += other.target_queued_s
        self.target_computed_s += other.target_computed_s
        self.draft_waited_s += other.draft_waited_s
        self.draft_queued_s += other.draft_queued_s
        self.draft_computed_s += other.draft_computed_s

    def to_message(self) -> generation_pb2.SpeculationStatistics:
        """Return the counters as a message."""
        positions = self.num_accepted_per_position
        return generation_pb2.SpeculationStatistics(
            num_cycles=self.num_cycles,
            num_drafts=self.num_drafts.total(),
            num_draft_tokens=self.num_draft_tokens.total(),
            num_accepted_tokens=self.num_accepted_tokens.total(),
            # No position is accepted unless those before it are.
            num_accepted_per_position=[positions[position] for position in range(len(positions))],
            num_skipped_tokens=self.num_skipped_tokens,
            speedup=self.plain_s / self.modelled_s if self.modelled_s else 0.0,
            num_resyncs=self.num_resyncs,
            num_fallbacks=self.num_fallbacks,
            drafters=[
                generation_pb2.DrafterStatistics(
                    drafter=DRAFTERS[drafter],
                    num_drafts=num_drafts,
                    num_draft_tokens=self.num_draft_tokens[drafter],
                    num_accepted_tokens=self.num_accepted_tokens[drafter],
                )
                for drafter, num_drafts in sorted(self.num_drafts.items())
            ],
        )
