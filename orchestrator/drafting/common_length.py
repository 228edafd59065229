"""How many draft tokens the sessions of a company have, which wait for each other: one number for all."""

import time
import weakref
from collections.abc import Callable, Sequence

# Plain decoding is left for drafts that bring so many tokens more in the time of a cycle, and these for another number
# that brings this share more of what a cycle does.
_LEAST_GAIN, _MARGIN, _MARGIN_SHARE = 0.03, 0.05, 0.02
# Rounds of a trial: a time that was seen less often is not believed.
_NUM_ROUNDS = 3
# Who chooses after nobody has for this share of a plain cycle is the first of those that are answered together.
_PAUSE_SHARE = 0.25


class CommonLength:
    """The number of all, and trials of another one than none.

    What drafts are worth is told by times of decodes, of which none with drafts is seen while all decode plainly; and
    one session that drafts alone keeps the others waiting for rows that are not verified. So all try it together. The
    first of a round begins: were some decoded plainly beside drafts of others, that would cost more than all the trial.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        """`clock` tells seconds; `time.perf_counter` if absent."""
        # Looked up now, as a simulation has put its own in that place.
        self._clock = clock or time.perf_counter
        self._chosen_s = 0.0
        # None until there was something to choose from; 0 is plain decoding.
        self._number: int | None = None
        self._tried = 0
        # The request that began the trial, and how many rounds of it each has had: of those that are answered together
        # some choose before it has ended its last one.
        self._trier: weakref.ref[object] | None = None
        self._rounds: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()
        # What a trial would cost each session, in tokens.
        self.trial_cost = 0.0

    def begins_round(self, plain_s: float) -> bool:
        """Tell that a request chooses; return whether it is the first of its round. A plain cycle takes `plain_s`."""
        before_s, self._chosen_s = self._chosen_s, self._clock()
        return self._chosen_s - before_s >= _PAUSE_SHARE * plain_s

    def choose(self, values: Sequence[float], costs: Sequence[float], begin_cost: float = 0.0) -> int:
        """Return the number for now, by what each is worth in tokens beyond those that its time would bring otherwise.

        `costs` are those. To begin costs `begin_cost` tokens. Of zero draft tokens the worth is 0.
        """
        best = place_of_best(values)
        number = self._number
        if number is None or number >= len(values):
            number = best
        elif not number:
            number = best if values[best] - begin_cost > _LEAST_GAIN else 0
        else:
            margin = max(_MARGIN, _MARGIN_SHARE * (1 + values[best] + costs[best])) if best else 0.0
            number = best if values[best] > values[number] + margin else number
        self._number = number
        if number:
            self._end_trial()
        self.trial_cost = _NUM_ROUNDS * max(_LEAST_GAIN, -max(values[1:], default=0.0))
        return number

    def begin_trial(self, request: object, values: Sequence[float]) -> None:
        """Let all draft for some rounds, as many tokens as are worth most; none begins after those of this request."""
        self._end_trial()
        self._trier = weakref.ref(request)
        self._tried = 1 + place_of_best(values[1:])

    def tried(self, request: object, most: int) -> int:
        """Return how many tokens, at most so many, a request drafts to try what they are worth; 0 without a trial."""
        num_rounds, trier = self._rounds.get(request, 0), self._trier() if self._trier is not None else None
        may_begin = trier is not None and self._rounds.get(trier, 0) < _NUM_ROUNDS
        return min(self._tried, most) if num_rounds < _NUM_ROUNDS and (num_rounds or may_begin) else 0

    def end_round(self, request: object) -> None:
        """A request has gone through a round of the trial."""
        self._rounds[request] = self._rounds.get(request, 0) + 1

    def _end_trial(self) -> None:
        self._trier = None
        self._rounds.clear()


def place_of_best(values: Sequence[float]) -> int:
    """Return the number of draft tokens that is worth most, of those that are worth the same the least."""
    return max(range(len(values)), key=values.__getitem__)
