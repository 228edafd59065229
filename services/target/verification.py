"""Verification as a piece of work for the engine."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from services.engine.runtime.runtime import Logits
from services.engine.sampling import SamplingParams, log_probabilities, samples
from services.engine.scheduling.work import Finished, Prefix, Work
from services.target.acceptance import Verdict, accept


@dataclass(frozen=True)
class LogProbabilities:
    """Of one committed token, and of the most probable tokens in its place: pairs of id and log-probability."""

    token: int
    log_probability: float
    top: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Verified:
    """A verdict, with the log-probabilities of its tokens where they were asked for."""

    verdict: Verdict
    log_probabilities: Sequence[LogProbabilities] = ()


class Verification(Work):
    """Evaluates the last token of the prefix and the draft tokens in one pass, and finishes with a `Verified`."""

    def __init__(
        self,
        prefix: Prefix,
        draft_tokens: Sequence[int],
        params: SamplingParams,
        end_of_generation: Collection[int],
        *,
        num_log_probabilities: int | None = None,
        deadline_s: float | None = None,
    ) -> None:
        super().__init__(prefix, draft_tokens, deadline_s=deadline_s)
        self._draft_tokens = draft_tokens
        self._params = params
        self._end_of_generation = end_of_generation
        self._num_log_probabilities = num_log_probabilities

    def take(self, logits: Logits, held: Sequence[int]) -> Finished:
        """Sample row after row and compare; keep the context and the accepted draft tokens."""
        length = self.prefix.length
        # What follows the first mismatch is never sampled.
        tokens = samples(logits, length, self._params, held[:length], self._draft_tokens)
        verdict = accept(self._draft_tokens, tokens, self._end_of_generation)
        reported: list[LogProbabilities] = []
        if self._num_log_probabilities is not None:
            committed = [*self._draft_tokens[: verdict.num_accepted], verdict.next_token]
            for row, token in zip(logits, committed, strict=False):
                value, ids, values = log_probabilities(row, token, self._num_log_probabilities)
                reported.append(LogProbabilities(token, value, list(zip(ids.tolist(), values.tolist(), strict=True))))
        return Finished(length + verdict.num_accepted, Verified(verdict, reported), verdict.num_accepted + 1)
