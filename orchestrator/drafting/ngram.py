"""Draft tokens without a model: what followed the last tokens where they stood in the request's own text before.

Prompt lookup decoding (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding; llama.cpp's `lookup` and
vLLM's `ngram` are the same idea). It costs the target rows and nothing else. Where each draft token is weighed by its
chance, a draft is as long as it may be, as the target leaves out what is not worth its rows. Else it is as long as its
match is good: two tokens shorter, so that short matches risk little.
"""

from collections.abc import Collection, Sequence

from orchestrator.drafting.drafter import NGRAM, Draft, Wanted
from services.session.sequence import TokenSequence

# Earlier places that are looked at for the longest match: bounds the time where a short one is everywhere.
_MAX_PLACES = 32
# Tokens by which a draft is shorter than its match, where nobody weighs them.
_CAUTION = 2


class NgramIndex:
    """Where in a growing sequence every run of `shortest` tokens stands.

    Chains of earlier places, as deflate finds its matches (RFC 1951, section 4): one dictionary entry a token, whatever
    the length of a match.
    """

    def __init__(self, shortest: int, longest: int) -> None:
        """Find matches of at least `shortest` tokens; no more than `longest` are compared."""
        self._shortest = shortest
        self._longest = longest
        # The end of the last run of these tokens, and by the end of a run the end of the one before; 0 is none.
        self._last: dict[tuple[int, ...], int] = {}
        self._before: list[int] = [0] * shortest

    def find(self, tokens: Sequence[int]) -> tuple[int, int]:
        """Return where the longest earlier match of the last tokens ends, and its length; length 0 is none.

        Of two that are equally long the later one. `tokens` are those of the last call and what was added since: only
        that is indexed.
        """
        # A run that nothing follows is no place to read on from, so the one at the end stays out.
        for end in range(len(self._before), len(tokens)):
            run = tuple(tokens[end - self._shortest : end])
            self._before.append(self._last.get(run, 0))
            self._last[run] = end
        best_end, best_length = 0, 0
        end = self._last.get(tuple(tokens[-self._shortest :]), 0)
        for _ in range(_MAX_PLACES):
            if not end or best_length == self._longest:
                break
            length = self._match_length(tokens, end)
            if length > best_length:
                best_end, best_length = end, length
            end = self._before[end]
        return best_end, best_length

    def _match_length(self, tokens: Sequence[int], end: int) -> int:
        """Return how many tokens before `end` are the last ones, given that the shortest run is."""
        length = self._shortest
        most = min(self._longest, end)
        while length < most and tokens[end - 1 - length] == tokens[-1 - length]:
            length += 1
        return length


class NgramDrafter:
    """Proposes what followed the longest earlier match of the last tokens."""

    num_resyncs = 0
    num_fallbacks = 0
    problem = ""

    def __init__(self, shortest: int, longest: int, never: Collection[int]) -> None:
        """Look for matches of `shortest` to `longest` tokens; propose none of the ids in `never`, nor what follows."""
        self._index = NgramIndex(shortest, longest)
        self._never = frozenset(never)

    def room(self, length: int) -> int:
        """Return as many as the text has: what followed a place may be all of it."""
        return length

    async def propose(self, sequence: TokenSequence, wanted: Wanted) -> Draft:
        """Return what followed the longest match, as many tokens as are wanted of drafts that take no time, or none.

        Where no such number is wanted, nobody weighs them: a draft is `_CAUTION` tokens shorter than the match then.
        """
        number = wanted.most_looked_up
        if number < 1:
            return Draft()
        tokens = sequence.tokens
        end, length = self._index.find(tokens)
        if wanted.num_looked_up is None or not length:
            number = min(number, length - _CAUTION)
        draft_tokens: list[int] = []
        for place in range(end, end + number):
            # A text that repeats itself goes on with its own continuation.
            token = tokens[place] if place < len(tokens) else draft_tokens[place - len(tokens)]
            # The target never accepts one of these: it says itself that a generation ends, or may not say it at all.
            if token in self._never:
                break
            draft_tokens.append(token)
        # The longer the match, the surer the draft. Where those before it are right, a token follows a longer one.
        margins = [float(length + depth) for depth in range(len(draft_tokens))]
        return Draft(draft_tokens, margins=margins, drafter=NGRAM) if draft_tokens else Draft()

    async def close(self) -> None:
        """Nothing was opened."""
