"""A caller's side of sessions of a target, with the truth that answers are compared with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from outrider.v1 import common_pb2, target_pb2
from services.engine.sampling import SamplingParams
from services.session.sequence import TokenSequence
from tests.unit.engine.fakes import true_token
from tests.unit.target.fakes import END

# Half of the sessions do without noise.
PARAMS = {
    "a": SamplingParams(),
    "b": SamplingParams(temperature=0.8, seed=7),
    "c": SamplingParams(repetition_penalty=1.5, frequency_penalty=0.5, penalty_last_n=6),
    "d": SamplingParams(temperature=1.2, seed=8, top_k=6),
}


@dataclass(frozen=True)
class Draft:
    """A draft of which so many tokens are right, and so many follow them at random."""

    num_right: int
    others: Sequence[int]


@dataclass
class Session:
    """A caller's side of a session."""

    name: str
    sequence: list[int] = field(default_factory=list)
    request_id: int = 0
    held_length: int = 0
    last_request: target_pb2.VerifyBatchRequest | None = None
    last_reply: target_pb2.VerifyBatchResponse | None = None

    def request(
        self, draft_tokens: Sequence[int], cached_length: int, digest: bytes | None = None
    ) -> target_pb2.VerifyBatchRequest:
        """The next request, which believes that so much is cached."""
        params = PARAMS[self.name]
        self.request_id += 1
        true_digest = TokenSequence(self.sequence).digests[cached_length] if cached_length else b""
        self.last_reply = None
        self.last_request = target_pb2.VerifyBatchRequest(
            request_id=self.request_id,
            context=common_pb2.Context(
                session_id=self.name,
                cached_length=cached_length,
                cached_digest=true_digest if digest is None else digest,
                tokens=self.sequence[cached_length:],
            ),
            draft_tokens=draft_tokens,
            sampling=common_pb2.Sampling(
                temperature=params.temperature,
                top_k=params.top_k,
                repetition_penalty=params.repetition_penalty,
                frequency_penalty=params.frequency_penalty,
                penalty_last_n=params.penalty_last_n,
                seed=params.seed,
            ),
        )
        return self.last_request

    def draft_tokens(self, draft: Draft) -> list[int]:
        """The tokens of a draft at this point."""
        tokens: list[int] = []
        for _ in range(draft.num_right):
            tokens.append(true_token([*self.sequence, *tokens], PARAMS[self.name]))
        return [*tokens, *draft.others]

    def commit(self, reply: target_pb2.VerifyBatchResponse, draft_tokens: Sequence[int]) -> None:
        """Compare a result with the truth, and go on from it."""
        result = reply.result
        truth = self._truth(draft_tokens)
        assert [*draft_tokens[: result.num_accepted], result.next_token] == truth
        assert result.is_end_of_generation == (truth[-1] == END)
        assert reply.held_length == len(self.sequence) + result.num_accepted
        self.last_reply = reply
        self.held_length = reply.held_length
        self.sequence += truth

    def _truth(self, draft_tokens: Sequence[int]) -> list[int]:
        """What one verification commits, computed from scratch."""
        text: list[int] = []
        while True:
            text.append(true_token([*self.sequence, *text], PARAMS[self.name]))
            if text[-1] == END or list(draft_tokens[: len(text)]) != text:
                return text
