"""What rows of draft tokens cost and are worth, from decodes and answers as they happen. Pure.

In a decode all sessions have as many rows as the one with most (services/engine/runtime/padding.py), so there is one
number to choose: how many draft tokens a session may have at most. The rule is that of a rate that is as high as can be
(Dinkelbach 1967, On nonlinear fractional programming): what is done next should bring most tokens beyond those that its
time would bring otherwise, at the rate that is reached.
"""

import random
from collections.abc import Callable, Sequence
from itertools import accumulate, count, zip_longest
from typing import Any

from outrider.v1.target_pb2 import Quote
from services.engine.runtime.interface import DecodeCosts
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
# Quotes that are kept, of different companies.
_MOST_QUOTES = 64


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
        # Sums over rounds, of which each counts less than the one after it.
        self._num_tokens = self._elapsed_s = self._decoded_s = 0.0
        # Sessions that these are of.
        self._num_present = 0
        # When the last decode of a round began, and what was committed since; None where there was something else.
        self._begun_s: float | None = None
        self._num_new_tokens = self._num_new_answers = 0
        self._new_decoded_s = 0.0
        self._quotes: dict[tuple[int, int, int], Quote] = {}
        # A service that takes this one's place must not seem to have told its quotes already.
        self._versions = count(random.randrange(1 << 28, 1 << 31))

    @property
    def tokens_per_s(self) -> float:
        """What all sessions commit while any is there; 0 while it is not known."""
        return self._num_tokens / self._elapsed_s if self._elapsed_s else 0.0

    def decoded(self, now_s: float, duration_s: float) -> None:
        """A decode of verifications began then, and with it a round. To be told before what comes of it."""
        if self._begun_s is not None:
            kept = 1 - 1 / max(_LEAST_ROUNDS, _NUM_ANSWERS / max(1, self._num_new_answers))
            self._num_tokens = kept * self._num_tokens + self._num_new_tokens
            self._elapsed_s = kept * self._elapsed_s + now_s - self._begun_s
            self._decoded_s = kept * self._decoded_s + self._new_decoded_s
        self._begun_s, self._num_new_tokens, self._num_new_answers, self._new_decoded_s = now_s, 0, 0, duration_s

    def answered(self, num_tokens: int) -> None:
        """A session committed so many tokens."""
        self._num_new_tokens += num_tokens
        self._num_new_answers += 1

    def resize(self, num_present: int) -> None:
        """So many sessions are there from now on: the rate counts as what each would have reached among these.

        It would take many rounds to forget a company, and those who are left would find all rows dear meanwhile.
        """
        before, self._num_present = self._num_present, num_present
        if self._elapsed_s and 0 < before != num_present > 0:
            longer = self._decode_s(num_present, 1) / self._decode_s(before, 1)
            self._num_tokens *= num_present / before
            self._elapsed_s *= longer
            self._decoded_s *= longer

    def pause(self) -> None:
        """Nobody was there: the time since the last round says nothing of the rate."""
        self._begun_s = None

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
        """Tell those who ask what rows cost in the company that they have just had; see `quote`."""
        if asking := [work for work in works if work.wants_quote]:
            quote = self.quote(len(works), num_present, num_drafting)
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
        most = max(num_forced, min(most, self._most_known(num_sessions)))
        # What so many draft tokens of each session bring together.
        tokens = list(accumulate(map(sum, zip_longest(*worths, [0.0] * most, fillvalue=0.0)), initial=0.0))

        def value(num_draft_tokens: int) -> float:
            return tokens[num_draft_tokens] - self.tokens_per_s * self._decode_s(num_sessions, 1 + num_draft_tokens)

        # Of those that are worth the same the most: a draft token that costs nothing tells how good its drafter is.
        return max(range(num_forced, most + 1), key=lambda number: (value(number), number))

    def quote(self, num_sessions: int, num_present: int, num_drafting: int) -> Quote:
        """Return the quote for a decode of so many of those present, of whom so many draft.

        Its rate is 0 while that is not known.
        """
        num_present, num_drafting = max(num_present, num_sessions), max(num_drafting, 1)
        company = num_sessions, num_present, num_drafting
        plain_s = self._decode_s(num_sessions, 1)
        most = min(_MOST_QUOTED, self._most_known(num_sessions))
        rows_s = [self._decode_s(num_sessions, 1 + number) - plain_s for number in range(1, most + 1)]
        quote = Quote(
            row_ms=[1e3 * row_s * num_present / (num_sessions * num_drafting) for row_s in rows_s],
            tokens_per_ms=self.tokens_per_s / 1e3,
            decode_ms=1e3 * plain_s,
            num_sessions=num_present,
            num_drafting=num_drafting,
            idle_share=self._idle_share if num_present > num_sessions else 1.0,
        )
        known = self._quotes.get(company)
        if known is None or not _is_near(known, quote):
            quote.version = next(self._versions)
            if len(self._quotes) >= _MOST_QUOTES:
                self._quotes.clear()
            self._quotes[company] = known = quote
        return known

    @property
    def _idle_share(self) -> float:
        return max(0.0, 1 - self._decoded_s / self._elapsed_s) if self._elapsed_s else 1.0

    def _most_known(self, num_sessions: int) -> int:
        """Return how many draft tokens make decodes whose time can be told from those that were seen."""
        most_rows = self._costs.most_seen(num_sessions) * _MOST_TIMES_SEEN
        return min(max(most_rows // num_sessions - 1, 1), self._most_rows // num_sessions - 1)

    def _decode_s(self, num_sessions: int, num_rows: int) -> float:
        return self._costs.least_s(self._padded_rows(num_sessions, num_rows), num_sessions)


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
