"""A proposal as a piece of work for the engine: every step runs inside the engine's thread."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from services.engine.runtime.runtime import Logits
from services.engine.sampling import SamplingParams, sample_with_confidence
from services.engine.scheduling.work import Finished, More, Prefix, Work


@dataclass(frozen=True)
class DraftToken:
    """A proposed token, its probability at temperature 1 and the margin of its choice."""

    token: int
    probability: float
    margin: float


class Proposal(Work):
    """Samples up to `num_draft_tokens` tokens, one after the other, and finishes with a list of `DraftToken`.

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
        self._draft_tokens: list[DraftToken] = []

    def take(self, logits: Logits, held: Sequence[int]) -> More | Finished:
        """Sample the next token under the noise that the target will use at the same position."""
        draft_token = DraftToken(*sample_with_confidence(logits[0], len(held), self._params, held))
        self._joint_confidence *= draft_token.probability
        if self._joint_confidence < self._min_joint_confidence:
            return self._finished(held)
        self._draft_tokens.append(draft_token)
        if len(self._draft_tokens) == self._num_draft_tokens or draft_token.token in self._end_of_generation:
            return self._finished(held)
        return More([draft_token.token])

    def _finished(self, held: Sequence[int]) -> Finished:
        return Finished(len(held), self._draft_tokens, len(self._draft_tokens))
