"""What rows of draft tokens cost and are worth, from decodes and answers as they happen. Pure.

In a decode all sessions have as many rows as the one with most (services/engine/runtime/padding.py), so there is one
number to choose: how many draft tokens a session may have at most. The rule is that of a rate that is as high as can be
(Dinkelbach 1967, On nonlinear fractional programming): what is done next should bring most tokens beyond those that its
time would bring otherwise, at the rate that is reached.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, zip_longest
from typing import Any

from outrider.v1.target_pb2 import Quote
from services.engine.runtime.decode_costs import DecodeCosts
from services.engine.scheduling.work import Work

# Answers of which the rate is a mean, and the least rounds: many sessions tell it sooner.
_NUM_ANSWERS, _LEAST_ROUNDS = 32, 8
# A quote holds as long as nothing in it is wrong by more.
_TOLERANCE = 0.05
# Draft tokens that are quoted for.
_MOST_QUOTED = 32
# No decode is risked with more times as many rows as the largest one that a company like it has had: a line through two
# that are near each other says little of one that is far.
_MOST_TIMES_SEEN = 2
# A row costs more than its time would bring at the rate: whoever is there waits for it, and of costs that are not known
# well those are chosen that are taken for less than they are.
_DEARER = 1.1
# A decode of a company takes no more than so many times as long as without draft tokens, whatever they are worth: all
# wait for a session that has looked up a long draft.
_LONGEST = 3.5
# Quotes that are kept, of different companies.
_MOST_QUOTES = 64


@dataclass
class _Rate:
    """What a company reaches: sums over rounds, of which each counts less than the one after it.

    `num_rows` is what the session with most had in their decodes, on the mean.
    """

    num_tokens: float = 0.0
    elapsed_s: float = 0.0
    decoded_s: float = 0.0
    num_rows: float = 1.0

    @property
    def tokens_per_s(self) -> float:
        """0 while it is not known."""
        return self.num_tokens / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def idle_share(self) -> float:
        """The share of the time in which nothing is decoded."""
        return max(0.0, 1 - self.decoded_s / self.elapsed_s) if self.elapsed_s else 1.0


@dataclass
class _Round:
    """The round that began with a decode, and what was committed since."""

    begun_s: float
    decoded_s: float
    num_rows: int
    num_tokens: int = 0
    num_answers: int = 0


class Prices:
    """Knows what decodes cost and the rate that all sessions together reach, and weighs rows by these."""

    def __init__(
        self,
        costs: DecodeCosts,
        padded_rows: Callable[[int, int], int],
        most_rows: int,
    ) -> None:
        """`padded_rows(sessions, rows)` is how many rows a decode has whose sessions have up to so many each.

        A decode has at most `most_rows`.
        """
        self._costs = costs
        self._padded_rows = padded_rows
        self._most_rows = most_rows
        # Of so many sessions, and those of other companies.
        self._rate = _Rate()
        self._num_present = 0
        self._rates: dict[int, _Rate] = {}
        # The one under way; None where there was something else.
        self._round: _Round | None = None
        self._quotes: dict[tuple[int, int, int], Quote] = {}
        # What decodes take by sessions and rows of each, asked for with each arrival, until there is another decode.
        self._decodes_s: dict[tuple[int, int], float] = {}
        # A service that takes this one's place must not seem to have told its quotes already.
        self._versions = count(random.randrange(1 << 28, 1 << 31))

    @property
    def tokens_per_s(self) -> float:
        """What all sessions commit while any is there; 0 while it is not known."""
        return self._rate.tokens_per_s

    def decoded(self, now_s: float, duration_s: float, num_rows: int = 1) -> None:
        """A decode of verifications began then, and with it a round. To be told before what comes of it.

        The session with most had so many rows in it.
        """
        self._decodes_s.clear()
        rate, ended = self._rate, self._round
        if ended is not None:
            kept = 1 - 1 / max(_LEAST_ROUNDS, _NUM_ANSWERS / max(1, ended.num_answers))
            rate.num_tokens = kept * rate.num_tokens + ended.num_tokens
            rate.elapsed_s = kept * rate.elapsed_s + now_s - ended.begun_s
            rate.decoded_s = kept * rate.decoded_s + ended.decoded_s
            rate.num_rows += (1 - kept) * (ended.num_rows - rate.num_rows)
        self._round = _Round(now_s, duration_s, num_rows)

    def answered(self, num_tokens: int) -> None:
        """A session committed so many tokens."""
        if self._round is not None:
            self._round.num_tokens += num_tokens
            self._round.num_answers += 1

    def resize(self, num_present: int) -> None:
        """So many sessions are there from now on, and the rate is that which so many had last.

        So many who were not there yet count as what each of the others would reach among these, with drafts as before:
        it would take many rounds to forget these, and those who are left would find all rows dear meanwhile. A larger
        company reaches no less than the smaller one; how much more, nobody knows yet. None does worse than plainly.
        """
        before = self._num_present
        if not num_present or num_present == before:
            return
        self._num_present = num_present
        if not (self._rate.elapsed_s and before):
            return
        self._rates[before] = self._rate
        known = num_present in self._rates
        self._rate = self._rates.pop(num_present) if known else self._expected(before, num_present)

    def _expected(self, before: int, num_present: int) -> _Rate:
        """Return what so many sessions are taken to reach, by the rate of those before."""
        rate = self._rate
        num_rows = max(1, round(rate.num_rows))
        longer = self._decode_s(num_present, num_rows) / self._decode_s(before, num_rows)
        tokens_per_s = rate.tokens_per_s if num_present > before else rate.tokens_per_s * num_present / before / longer
        tokens_per_s = max(tokens_per_s, num_present / self._decode_s(num_present, 1))
        num_tokens = rate.num_tokens * num_present / before
        elapsed_s = num_tokens / tokens_per_s
        return _Rate(num_tokens, elapsed_s, elapsed_s * (1 - rate.idle_share), rate.num_rows)

    def pause(self) -> None:
        """Nobody was there: the time since the last round says nothing of the rate."""
        self._round = None

    def num_spare(self, works: Sequence[Work[Any]]) -> list[int]:
        """Return how many rows of each are not worth what they cost in a decode of them all."""
        worths = [work.worths for work in works if work.worths]
        if not worths:
            return [0] * len(works)
        num_forced = max((work.num_outputs - 1 for work in works if not work.worths), default=0)
        most = self.most_worthwhile(len(works), worths, num_forced)
        return [max(0, len(work.worths) - most) for work in works]

    def shorten(self, works: Sequence[Work[Any]]) -> None:
        """Leave out rows that are not worth what they cost, now that it is known who shares the decode."""
        for work, num_rows in zip(works, self.num_spare(works), strict=True):
            work.shorten(num_rows)

    def tell(self, works: Sequence[Work[Any]], num_present: int, num_drafting: int) -> None:
        """Tell those who ask what rows cost in the company that they have just had; see `quote`.

        All of them may draft: of those who are new, `num_drafting` does not know yet.
        """
        if asking := [work for work in works if work.wants_quote]:
            quote = self.quote(len(works), num_present, max(num_drafting, len(asking)))
            for work in asking:
                work.quote = quote

    def most_worthwhile(self, num_sessions: int, worths: Sequence[Sequence[float]], num_forced: int = 0) -> int:
        """Return how many draft tokens a session may have at most in a decode of so many sessions.

        `worths` are those of sessions that may do with fewer: the tokens that each draft token brings in expectation.
        Another session has `num_forced` draft tokens, whatever they cost.
        """
        most = max(map(len, worths))
        if not self.tokens_per_s:
            return most
        most = max(num_forced, min(most, self._most_sensible(num_sessions)))
        # What so many draft tokens of each session bring together.
        tokens = list(accumulate(map(sum, zip_longest(*worths, [0.0] * most, fillvalue=0.0)), initial=0.0))

        def value(num_draft_tokens: int) -> float:
            decode_s = self._decode_s(num_sessions, 1 + num_draft_tokens)
            return tokens[num_draft_tokens] - _DEARER * self.tokens_per_s * decode_s

        # Of those that are worth the same the most: a draft token that costs nothing tells how good its drafter is.
        return max(range(num_forced, most + 1), key=lambda number: (value(number), number))

    def quote(self, num_sessions: int, num_present: int, num_drafting: int) -> Quote:
        """Return the quote for a decode of so many of those present, of whom so many draft.

        Its rate is 0 while that is not known.
        """
        num_present, num_drafting = max(num_present, num_sessions), max(num_drafting, 1)
        company = num_sessions, num_present, num_drafting
        plain_s = self._decode_s(num_sessions, 1)
        most = min(_MOST_QUOTED, self._most_sensible(num_sessions))
        rows_s = [self._decode_s(num_sessions, 1 + number) - plain_s for number in range(1, most + 1)]
        quote = Quote(
            row_ms=[1e3 * row_s * num_present / (num_sessions * num_drafting) for row_s in rows_s],
            tokens_per_ms=self.tokens_per_s / 1e3,
            decode_ms=1e3 * plain_s,
            num_sessions=num_present,
            num_drafting=num_drafting,
            idle_share=self._rate.idle_share if num_present > num_sessions else 1.0,
        )
        known = self._quotes.get(company)
        if known is None or not _is_near(known, quote):
            quote.version = next(self._versions)
            if len(self._quotes) >= _MOST_QUOTES:
                self._quotes.clear()
            self._quotes[company] = known = quote
        return known

    def _most_sensible(self, num_sessions: int) -> int:
        """Return how many draft tokens, at least 1, make decodes whose time is known, and bearable for a company."""
        most_rows = self._costs.most_seen(num_sessions) * _MOST_TIMES_SEEN
        most = min(max(most_rows // num_sessions - 1, 1), self._most_rows // num_sessions - 1)
        if num_sessions == 1:
            return most
        longest_s = _LONGEST * self._decode_s(num_sessions, 1)
        beyond = (number for number in range(2, most + 1) if self._decode_s(num_sessions, 1 + number) > longest_s)
        return next(beyond, most + 1) - 1

    def _decode_s(self, num_sessions: int, num_rows: int) -> float:
        company = num_sessions, num_rows
        if company not in self._decodes_s:
            num_padded = self._padded_rows(num_sessions, num_rows)
            self._decodes_s[company] = self._costs.least_s(num_padded, num_sessions)
        return self._decodes_s[company]


def _is_near(known: Quote, quote: Quote) -> bool:
    if len(known.row_ms) != len(quote.row_ms):
        return False
    if abs(known.idle_share - quote.idle_share) > _TOLERANCE / 2:
        return False
    if abs(known.tokens_per_ms - quote.tokens_per_ms) > _TOLERANCE * quote.tokens_per_ms:
        return False
    # What a row costs matters beside the decode that it is in.
    most_ms = _TOLERANCE * quote.decode_ms
    pairs = zip((quote.decode_ms, *quote.row_ms), (known.decode_ms, *known.row_ms), strict=True)
    return all(abs(new - old) <= most_ms for new, old in pairs)
