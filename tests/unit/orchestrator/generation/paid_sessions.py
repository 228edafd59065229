"""A session of mode AUTO, with what its policy sees in each cycle."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.drafting.drafter import REMOTE, Draft, Wanted
from orchestrator.drafting.experience import Experience
from orchestrator.generation.cycle import Cycle
from orchestrator.generation.length_policy import PaidLength
from orchestrator.peers.target import Verification
from outrider.v1 import target_pb2

# What the draft model is sure of, and what it is not.
SURE, UNSURE = 8.0, 0.05
MOST = 16
DECODE_MS = 20.0
READING = Draft(drafter=REMOTE, is_reading=True)


def quote(
    *, row_ms: float = 0.3, tokens_per_ms: float = 0.1, num_sessions: int = 1, idle_share: float = 0.5
) -> target_pb2.Quote:
    return target_pb2.Quote(
        version=1,
        row_ms=[row_ms * number for number in range(1, 33)],
        tokens_per_ms=tokens_per_ms,
        decode_ms=DECODE_MS,
        idle_share=idle_share,
        num_sessions=num_sessions,
        num_drafting=num_sessions,
    )


@dataclass
class Session:
    """A policy with what it sees: a draft that takes `draft_s` and `token_s` more for each token.

    Where it is to read ahead, that takes a cycle.
    """

    quote: target_pb2.Quote | None = field(default_factory=quote)
    experience: Experience = field(default_factory=Experience)
    draft_s: float = 0.0005
    token_s: float = 0.002
    most: int = MOST
    follows_prompt: bool = False
    read_s: float = 0.001

    def __post_init__(self) -> None:
        self.policy = PaidLength(self.experience, self.most)
        self.num_cycles = 0
        self._is_reading = False

    def cycle(self, num_accepted: int = MOST, margin: float = SURE, drafter: str = REMOTE) -> Wanted:
        """Go through one cycle with as many draft tokens as are wanted; return what was wanted."""
        wanted = self.policy.choose(MOST)
        self.end_cycle(wanted, num_accepted, margin, drafter)
        return wanted

    def end_cycle(self, wanted: Wanted, num_accepted: int, margin: float, drafter: str = REMOTE) -> None:
        """Draft and verify what is wanted."""
        number = wanted.num_draft_tokens
        computed_s = self.token_s * number
        waited_s, margins = self.draft_s + computed_s, [margin] * number
        draft = Draft([7] * number, (), margins, waited_s, computed_s, drafter, follows_prompt=self.follows_prompt)
        if self._is_reading or (wanted.reads_ahead and number):
            # It has read by the next cycle.
            draft = Draft(drafter=drafter, read_s=self.read_s) if self._is_reading else READING
            self._is_reading = draft is READING
            number = 0
        elif not number:
            draft = Draft()
        self.policy.chances(draft)
        num_accepted = min(num_accepted, number)
        result = target_pb2.VerifyBatchResult(num_accepted=num_accepted, next_token=7)
        verification = Verification(result, number, 0.021, 0.02, 0.02, quote=self.quote)
        self.policy.observe(Cycle(self.num_cycles, draft, verification, [7] * (num_accepted + 1)))
        self.num_cycles += 1

    def cycles(self, number: int, num_accepted: int = MOST, margin: float = SURE) -> list[int]:
        """Return how many tokens were wanted in each of so many cycles."""
        return [self.cycle(num_accepted, margin).num_draft_tokens for _ in range(number)]


def request_after_request(experience: Experience, number: int, num_cycles: int, **drafts: float) -> list[Sequence[int]]:
    """So many requests of so many cycles each, with drafts of which nothing is accepted; return what was wanted."""
    return [
        Session(experience=experience, **drafts).cycles(num_cycles, num_accepted=0, margin=UNSURE)
        for _ in range(number)
    ]
