"""A target and drafters for tests of the cycle: the next token is a pure function of the sequence."""

import hashlib
from collections.abc import Callable, Sequence

from orchestrator.drafting.drafter import Draft, Wanted
from orchestrator.generation.cycle import Cycle, LengthPolicy, run_cycles
from orchestrator.peers.target import Verification
from outrider.v1 import common_pb2, target_pb2
from services.frame.telemetry import Telemetry
from services.session.client import Limits
from services.session.sequence import TokenSequence

NUM_TOKENS = 12
# Ends a generation; the fake model never says it of itself.
END = NUM_TOKENS


def next_token(sequence: Sequence[int]) -> int:
    """The token that follows a sequence."""
    return hashlib.sha256(repr(list(sequence)).encode()).digest()[0] % NUM_TOKENS


def plain_text(prompt: Sequence[int], num_tokens: int) -> list[int]:
    """What plain decoding says after a prompt."""
    sequence = list(prompt)
    for _ in range(num_tokens):
        sequence.append(next_token(sequence))
    return sequence[len(prompt) :]


class FakeTarget:
    """Verifies drafts; ends the generation at position `end_at` of the sequence, if one is set."""

    def __init__(
        self,
        end_at: int | None = None,
        *,
        is_exact: bool = False,
        log_probabilities: bool = False,
        next_token: Callable[[Sequence[int]], int] = next_token,
        batch_rows: int = 0,
        num_cached_tokens: int = 0,
    ) -> None:
        self.num_resyncs = 0
        self.limits = Limits(max_draft_tokens=1000, context_length=10_000)
        self.drafts: list[Sequence[int]] = []
        self.batch_rows = batch_rows
        self._num_cached_tokens = num_cached_tokens
        self._end_at = end_at
        self._is_exact = is_exact
        self._log_probabilities = log_probabilities
        self._next_token = next_token

    async def verify(
        self, sequence: TokenSequence, draft_tokens: Sequence[int], chances: Sequence[float] | None = None
    ) -> Verification:
        self.drafts.append(draft_tokens)
        result = target_pb2.VerifyBatchResult(exact=self._is_exact)
        held = list(sequence.tokens)
        while True:
            token = END if len(held) == self._end_at else self._next_token(held)
            if self._log_probabilities:
                chosen = common_pb2.TokenLogProbability(token=token, log_probability=-len(held))
                result.log_probabilities.append(common_pb2.LogProbabilities(chosen=chosen))
            is_right = result.num_accepted < len(draft_tokens) and draft_tokens[result.num_accepted] == token
            if token == END or not is_right:
                break
            result.num_accepted += 1
            held.append(token)
        result.next_token, result.is_end_of_generation = token, token == END
        num_cached, self._num_cached_tokens = self._num_cached_tokens, len(held)
        return Verification(
            result,
            len(draft_tokens),
            waited_s=0.5,
            computed_s=0.25,
            batch_rows=self.batch_rows,
            num_cached_tokens=num_cached,
        )


Strategy = Callable[[list[int], int], Sequence[int]]


class FakeDrafter:
    """Proposes what its strategy says, given the sequence and a number of tokens, and is as sure of each of them."""

    def __init__(self, strategy: Strategy, name: str = "remote", *, probability: float = 1.0) -> None:
        self.num_resyncs = 0
        self.num_fallbacks = 0
        self.problem = ""
        self.asked: list[int] = []
        self.is_closed = False
        self.most = 1000
        self._strategy = strategy
        self._name = name
        self._probability = probability

    def room(self, length: int) -> int:
        return self.most

    async def propose(self, sequence: TokenSequence, wanted: Wanted) -> Draft:
        num_draft_tokens = min(wanted.num_draft_tokens, self.most)
        self.asked.append(num_draft_tokens)
        tokens = self._strategy(list(sequence.tokens), num_draft_tokens)
        probabilities = [self._probability] * len(tokens)
        return Draft(tokens, probabilities, waited_s=0.125, computed_s=0.0625, drafter=self._name)

    async def close(self) -> None:
        self.is_closed = True


def perfect(sequence: list[int], num_draft_tokens: int) -> Sequence[int]:
    """All right."""
    return plain_text(sequence, num_draft_tokens)


def wrong(sequence: list[int], num_draft_tokens: int) -> Sequence[int]:
    """All wrong."""
    return [(token + 1) % NUM_TOKENS for token in perfect(sequence, num_draft_tokens)]


def empty(sequence: list[int], num_draft_tokens: int) -> Sequence[int]:
    """No draft at all."""
    return []


def first_right(sequence: list[int], num_draft_tokens: int) -> Sequence[int]:
    """Right at first, then wrong."""
    return [*perfect(sequence, num_draft_tokens)[:1], *wrong(sequence, num_draft_tokens)[1:]]


def short(sequence: list[int], num_draft_tokens: int) -> Sequence[int]:
    """Right, and fewer than asked for."""
    return perfect(sequence, num_draft_tokens)[: num_draft_tokens // 2]


def erratic(sequence: list[int], num_draft_tokens: int) -> Sequence[int]:
    """Now right, now wrong, now nothing."""
    return (perfect, wrong, empty, first_right)[len(sequence) % 4](sequence, num_draft_tokens)


def dying() -> Strategy:
    """Right for three cycles, then nothing for ever."""
    num_calls = 0

    def strategy(sequence: list[int], num_draft_tokens: int) -> Sequence[int]:
        nonlocal num_calls
        num_calls += 1
        return perfect(sequence, num_draft_tokens) if num_calls <= 3 else []

    return strategy


async def run_policy(
    policy: LengthPolicy, target: FakeTarget, drafter: FakeDrafter, prompt: Sequence[int], num_tokens: int
) -> tuple[list[Cycle], list[int]]:
    """Let a length policy choose in every cycle of so many tokens; return the cycles and the text."""
    sequence = TokenSequence(prompt)
    cycles = run_cycles(
        sequence, target, drafter, policy, max_length=len(prompt) + num_tokens, telemetry=Telemetry.off()
    )
    return [cycle async for cycle in cycles], sequence.tokens[len(prompt) :]
