"""Draft tokens out of the text that a caller expects: followed while it is right, and found again after every change.

What OpenAI calls predicted outputs. After a divergence a diff of both texts says where the expected one goes on (Myers
1986, An O(ND) difference algorithm, is what others take), but that is work for all of it in every cycle, and the end of
a text that is still growing has little to say. So the last tokens are searched in the expected text, near the place
where both were last together. Runs of one, three or four tokens, further places and other weights of the distance gave
nothing where edits of files were replayed (`benchmarks/predicted_edits.py`).
"""

import asyncio
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import takewhile

from orchestrator.drafting.drafter import PREDICTION, Draft, Wanted
from services.session.sequence import TokenSequence

# Tokens that have to be the same for a place to be taken for the one where the text goes on.
_RUN = 2
# Places that are compared before and behind the one where both were last together: bounds the time of a search.
_NUM_NEAR = 8
# After so many equal tokens both are together: what comes next is searched from there.
_TOGETHER = 4
# More tokens are not compared, nor told apart.
_LONGEST = 32
# More tokens are indexed in a thread: 100,000 are a tenth of a second of work.
_LONG = 8192
# The answer is expected to begin as predicted: as much as after so many tokens.
_BEGINNING = 8


class Alignment:
    """Where in an expected text the real one is, as it grows: at `place`, behind a match of `match` tokens.

    A token costs a step while it is the expected one, and a search in a few places else.
    """

    def __init__(self, expected: Sequence[int]) -> None:
        self._expected = expected
        self._text: list[int] = []
        self.place = 0
        self.match = _BEGINNING
        # Where both were last together.
        self._together = 0
        # By each run of tokens the ends of it, ascending.
        self._ends: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for end in range(_RUN, len(expected) + 1):
            self._ends[tuple(expected[end - _RUN : end])].append(end)

    def follow(self, tokens: Sequence[int]) -> None:
        """Go on with tokens of the real text."""
        for token in tokens:
            self._text.append(token)
            if self.place < len(self._expected) and self._expected[self.place] == token:
                self.place, self.match = self.place + 1, self.match + 1
            else:
                self._search()
            if self.match >= _TOGETHER:
                self._together = self.place

    def _search(self) -> None:
        """Go to the end of the longest match of the last tokens; of equal ones to the nearest."""
        ends = self._ends.get(tuple(self._text[-_RUN:]), [])
        first = bisect_left(ends, self._together)
        near = ends[max(0, first - _NUM_NEAR) : first + _NUM_NEAR]
        found = [(self._match_length(end), -abs(end - self._together), end) for end in near]
        # Behind the end nothing is expected.
        self.match, _, self.place = max(found, default=(0, 0, len(self._expected)))

    def _match_length(self, end: int) -> int:
        """Return how many tokens before `end` are the last ones of the text."""
        pairs = zip(reversed(self._expected[max(0, end - _LONGEST) : end]), reversed(self._text), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class PredictionDrafter:
    """Proposes what comes next in the text that the caller expects."""

    num_resyncs = 0
    num_fallbacks = 0
    problem = ""

    def __init__(self, expected: Sequence[int], num_prompt_tokens: int, never: Collection[int]) -> None:
        """`expected` follows the prompt, perhaps. None of the ids in `never` is proposed, nor what follows one."""
        self._expected = expected
        self._alignment: Alignment | None = None
        self._num_followed = num_prompt_tokens
        self._never = frozenset(never)

    def room(self, length: int) -> int:
        """Return the number of tokens that are expected."""
        return len(self._expected)

    async def propose(self, sequence: TokenSequence, wanted: Wanted) -> Draft:
        """Return what is expected next, as many tokens as may be looked up, or none where the text is another."""
        alignment = self._alignment = self._alignment or await _aligned(self._expected)
        alignment.follow(sequence.tokens[self._num_followed :])
        self._num_followed = len(sequence)
        expected = self._expected[alignment.place : alignment.place + max(0, wanted.most_looked_up)]
        tokens = list(takewhile(lambda token: token not in self._never, expected))
        # Where all those before it are right, a token follows a match that is as much longer.
        margins = [float(min(_LONGEST, alignment.match + depth)) for depth in range(len(tokens))]
        return Draft(tokens, margins=margins, drafter=PREDICTION) if tokens else Draft()

    async def close(self) -> None:
        """Nothing was opened."""


async def _aligned(expected: Sequence[int]) -> Alignment:
    return Alignment(expected) if len(expected) < _LONG else await asyncio.to_thread(Alignment, expected)


def is_followed(draft: Draft) -> bool:
    """Whether a draft is expected by a text that has been right for a while."""
    return draft.drafter == PREDICTION and draft.margins[0] >= _TOGETHER
