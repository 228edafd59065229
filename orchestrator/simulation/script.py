"""What target and draft would say in one stream, without a model: which draft tokens are right, and how sure it is."""

import hashlib
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

VOCABULARY_SIZE = 32_768
# Of the lengths of runs of right tokens.
_NUM_STRATA = 8
# How much the draft knows of its own chances: as much as from so many tokens that it had seen verified.
_CERTAINTY = 16.0


@dataclass(frozen=True)
class Guess:
    """A draft token at one position: whether it is right, and the chance of that as the draft sees it."""

    is_right: bool
    chance: float


class Script:
    """The truth of one stream and the draft's guesses at it, by position: pure functions of seed and stream.

    A guess is right with the acceptance rate of its position's phase, whatever was guessed before. The chances are
    calibrated: of the guesses with a chance of p the share p is right. They are drawn from a beta distribution around
    the rate and never tell the truth.
    """

    def __init__(self, seed: int, stream: int, rates: Sequence[float], phase_length: int = 50) -> None:
        """The acceptance goes from one of `rates` to the next after every `phase_length` positions."""
        self._key = f"{seed} {stream}"
        self._rates = rates
        self._phase_length = phase_length
        self._guesses_of = {rate: _guesses(rate, random.Random(f"{self._key} {rate}")) for rate in set(rates)}
        self._guesses: list[Guess] = []
        self._tokens: list[int] = []

    def token(self, position: int) -> int:
        """Return the target's token."""
        while len(self._tokens) <= position:
            digest = hashlib.blake2b(f"{self._key} {len(self._tokens)}".encode(), digest_size=4).digest()
            self._tokens.append(int.from_bytes(digest, "little") % VOCABULARY_SIZE)
        return self._tokens[position]

    def guess(self, position: int) -> Guess:
        """Return what the draft makes of a position whose prefix it knows."""
        while len(self._guesses) <= position:
            rate = self._rates[len(self._guesses) // self._phase_length % len(self._rates)]
            self._guesses.append(next(self._guesses_of[rate]))
        return self._guesses[position]

    def draft_token(self, position: int) -> int:
        """Return the draft's token."""
        token = self.token(position)
        return token if self.guess(position).is_right else (token + 1) % VOCABULARY_SIZE


def _guesses(rate: float, draw: random.Random) -> Iterator[Guess]:
    """Yield guesses, each right with chance `rate`.

    The chance has a beta distribution; once it is known whether a guess is right, it has that of Bayes' rule.
    """
    right, wrong = _CERTAINTY * rate, _CERTAINTY * (1 - rate)
    for is_right in _hits(rate, draw):
        chance = draw.betavariate(right + is_right, wrong + (not is_right)) if 0 < rate < 1 else rate
        yield Guess(is_right, chance)


def _hits(rate: float, draw: random.Random) -> Iterator[bool]:
    """Yield hits with chance `rate`, in runs whose lengths are a stratified sample of their distribution.

    Every few runs have one of each stratum, and so have the runs of one stratum within it. So a short simulation comes
    as close to its expectation as an independent sample many times as long (Cochran, Sampling Techniques, chapter 5).
    """
    if rate in (0.0, 1.0):
        yield from itertools.repeat(rate == 1.0)
    within = [_shuffled(draw) for _ in range(_NUM_STRATA)]
    while True:
        for stratum in itertools.islice(_shuffled(draw), _NUM_STRATA):
            # The share of runs that are longer; never 0.
            longer = 1 - (stratum + (next(within[stratum]) + draw.random()) / _NUM_STRATA) / _NUM_STRATA
            yield from [True] * math.floor(math.log(longer) / math.log(rate))
            yield False


def _shuffled(draw: random.Random) -> Iterator[int]:
    """Yield the numbers of all strata in some order, and then again in others."""
    while True:
        yield from draw.sample(range(_NUM_STRATA), _NUM_STRATA)
