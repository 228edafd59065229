"""A proposal as a piece of work for the engine: every step runs inside the engine's thread."""

from collections.abc import Collection, Sequence

from outrider.v1 import draft_pb2
from services.engine.runtime.interface import Logits
from services.engine.sampling import SamplingParams, sample_with_confidence
from services.engine.scheduling.work import Prefix, Work


class ProposalWork(Work[draft_pb2.ProposeResult]):
    """Samples up to `num_draft_tokens` tokens, one after the other, and finishes with the reply's result.

    With a deadline it does not wait for a slot: who sets one decodes plainly meanwhile, which is quicker than to wait.
    """

    def __init__(
        self,
        prefix: Prefix,
        num_draft_tokens: int,
        params: SamplingParams,
        end_of_generation: Collection[int],
        *,
        min_joint_confidence: float = 0.0,
        deadline_s: float | None = None,
    ) -> None:
        super().__init__(prefix, deadline_s=deadline_s)
        self.waits_for_slot = deadline_s is None
        self._num_draft_tokens = num_draft_tokens
        self._params = params
        self._end_of_generation = end_of_generation
        self._min_joint_confidence = min_joint_confidence
        self._joint_confidence = 1.0
        self.result = draft_pb2.ProposeResult()

    def next_step(self, logits: Logits, held: Sequence[int]) -> Sequence[int]:
        """Sample the next token under the noise that the target will use at the same position."""
        token, probability, margin = sample_with_confidence(logits[0], len(held), self._params, held)
        self._joint_confidence *= probability
        if self._joint_confidence < self._min_joint_confidence:
            return self._finished(held)
        self.result.draft_tokens.add(token=token, probability=probability, margin=margin)
        self.result.is_end_of_generation = token in self._end_of_generation
        if len(self.result.draft_tokens) == self._num_draft_tokens or self.result.is_end_of_generation:
            return self._finished(held)
        return [token]

    def _finished(self, held: Sequence[int]) -> Sequence[int]:
        return self.finish(self.result, len(held), len(self.result.draft_tokens))
