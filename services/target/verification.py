"""Verification: `accept` compares a draft with the target's own samples; works have the engine evaluate the rows."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul

from outrider.v1 import common_pb2, target_pb2
from services.engine.runtime.interface import Logits
from services.engine.sampling import SamplingParams, log_probabilities, samples
from services.engine.scheduling.work import Prefix, Work


@dataclass(frozen=True)
class Verdict:
    """What one verification commits: `num_accepted` draft tokens, then `next_token`."""

    num_accepted: int
    next_token: int
    is_end_of_generation: bool


def accept(draft_tokens: Sequence[int], samples: Iterable[int], end_of_generation: Collection[int]) -> Verdict:
    """Compare the draft with the target's own samples.

    `samples` are the target's tokens given the context and no draft token, the first one, the first two and so on, so
    there is one more of them than of draft tokens; those that cannot matter any more are not asked for. A draft token
    is accepted while it equals the sample in its place; the sample at the first mismatch is the recovered token, the
    one after a fully accepted draft the bonus token. A sample that ends the generation is always reported as
    `next_token`, and nothing is accepted beyond it.

    Equality under shared noise, instead of acceptance by a ratio of probabilities, makes the text independent of the
    draft: Daliri, Musco, Suresh 2024, arXiv 2408.07978.
    """
    for num_accepted, sample in enumerate(samples):
        is_end = sample in end_of_generation
        if is_end or num_accepted == len(draft_tokens) or draft_tokens[num_accepted] != sample:
            return Verdict(num_accepted, sample, is_end)
    raise ValueError(f"{len(draft_tokens)} draft tokens need {len(draft_tokens) + 1} samples")


class VerificationWork(Work[target_pb2.VerifyBatchResult]):
    """Evaluates the last token of the prefix and the draft tokens in one pass, and finishes with the reply's result."""

    def __init__(
        self,
        prefix: Prefix,
        draft_tokens: Sequence[int],
        params: SamplingParams,
        end_of_generation: Collection[int],
        *,
        is_exact: bool = False,
        num_log_probabilities: int | None = None,
        chances: Sequence[float] = (),
        quote_version: int | None = None,
        deadline_s: float | None = None,
    ) -> None:
        """`chances` are those of each draft token, if those before it are accepted; without any all are verified.

        `quote_version` is that of the quote that the caller has; None asks for none.
        """
        super().__init__(prefix, draft_tokens, deadline_s=deadline_s)
        self.worths = list(accumulate(chances, mul))
        self.wants_quote = quote_version is not None
        self._quote_version = quote_version
        self._draft_tokens = draft_tokens
        self._params = params
        self._end_of_generation = end_of_generation
        self._is_exact = is_exact
        self._num_log_probabilities = num_log_probabilities

    @property
    def num_tentative(self) -> int:
        """Draft tokens that are verified."""
        return self.num_outputs - 1

    def next_step(self, logits: Logits, held: Sequence[int]) -> Sequence[int]:
        """Sample row after row and compare; keep the context and the accepted draft tokens."""
        length = self.prefix.length
        draft_tokens = self._draft_tokens[: len(logits) - 1]
        num_skipped = len(self._draft_tokens) - len(draft_tokens)
        # What follows the first mismatch is never sampled.
        tokens = samples(logits, length, self._params, held[:length], draft_tokens)
        verdict = accept(draft_tokens, tokens, self._end_of_generation)
        result = target_pb2.VerifyBatchResult(
            num_skipped=num_skipped,
            num_accepted=verdict.num_accepted,
            next_token=verdict.next_token,
            is_end_of_generation=verdict.is_end_of_generation,
            exact=self._is_exact,
        )
        if self._num_log_probabilities is not None:
            committed = [*draft_tokens[: verdict.num_accepted], verdict.next_token]
            for row, token in zip(logits, committed, strict=False):
                result.log_probabilities.append(_log_probabilities(row, token, self._num_log_probabilities))
        if self.quote is not None and self.quote.version != self._quote_version:
            result.quote.CopyFrom(self.quote)
        return self.finish(result, length + verdict.num_accepted, verdict.num_accepted + 1)


class ScoringWork(VerificationWork):
    """Verifies no draft, and before that scores the last tokens of the prefix, each by the row before it.

    Their rows are evaluated as a prompt's are: in parts, between the decodes of others. All of them have logits, of
    which only so many are in memory at a time.
    """

    is_prompt = True
    num_tentative = 0

    def __init__(
        self,
        prefix: Prefix,
        num_scored: int,
        params: SamplingParams,
        end_of_generation: Collection[int],
        *,
        most_rows: int,
        is_exact: bool = False,
        num_log_probabilities: int | None = None,
        deadline_s: float | None = None,
    ) -> None:
        """Score `num_scored` tokens, which follow another one in `prefix.tokens`, with `most_rows` rows in a decode."""
        super().__init__(
            prefix,
            (),
            params,
            end_of_generation,
            is_exact=is_exact,
            num_log_probabilities=num_log_probabilities,
            deadline_s=deadline_s,
        )
        self.num_outputs = num_scored + 1
        self._most_rows = most_rows
        self._scores: list[common_pb2.LogProbabilities] = []

    def rows_within(self, limit: int) -> int:
        """Return the rows before those with logits, as many as there is room for, or else as many as are scored."""
        num_silent = len(self.pending) - self.num_outputs
        return min(limit, num_silent or min(self.num_outputs, self._most_rows))

    def advance(self, logits: Logits, held: Sequence[int]) -> None:
        """Score the token after each row; after the last one sample."""
        following = [*held[len(held) - len(logits) + 1 :], *self.pending[:1]]
        for row, token in zip(logits, following, strict=False):
            self._scores.append(_log_probabilities(row, token, self._num_log_probabilities or 0))
        if self.pending:
            self.num_outputs -= len(logits)
            return
        super().advance(logits[-1:], held)
        self.result.scored_tokens.extend(self._scores)


def _log_probabilities(row: Logits, token: int, num_top: int) -> common_pb2.LogProbabilities:
    """Return those of a committed token and of the most probable tokens in its place."""
    value, ids, values = log_probabilities(row, token, num_top)
    found = common_pb2.LogProbabilities(chosen=common_pb2.TokenLogProbability(token=token, log_probability=value))
    for top_token, top_value in zip(ids.tolist(), values.tolist(), strict=True):
        found.top.add(token=top_token, log_probability=top_value)
    return found
