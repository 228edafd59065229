"""Which draft tokens stand. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


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
