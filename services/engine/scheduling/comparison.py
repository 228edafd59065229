"""Whether one of two ways to go on is the quicker one, found out by doing the other for a while now and then."""

# Rounds of a leg: the first ones, which still show what was before, are not counted.
_NUM_SETTLING, _NUM_COUNTED = 2, 8
# The other way is tried in at most this share of the time, and taken where it was quicker by this factor, twice.
_MOST_TRIED = 0.01
_MARGIN = 1.05
_NUM_CONFIRMATIONS = 2
# What is best, what is not, what is best again: the machine may have become quicker or slower meanwhile.
_LEGS = (False, True, False)


class Comparison:
    """To wait or not to wait, by tokens per second, for each size of the company on its own.

    Sizes that differ by less than a factor of two are one. Waiting is the first guess.
    """

    def __init__(self) -> None:
        self._is_other_best: dict[int, bool] = {}
        self._num_confirmed = 0
        self._elapsed_s = self._tried_s = 0.0
        # The trial under way: tokens and seconds of each leg so far, empty while there is none.
        self._legs: list[tuple[float, float]] = []
        self._num_rounds = 0
        self._trial_size = 0

    @property
    def is_trying(self) -> bool:
        """Whether a trial is under way."""
        return bool(self._legs)

    def waits(self, num_sessions: int) -> bool:
        """Whether to wait now, among so many sessions."""
        is_other = self._is_other_best.get(num_sessions.bit_length(), False)
        is_trying = bool(self._legs) and num_sessions == self._trial_size and _LEGS[len(self._legs) - 1]
        return is_other == is_trying

    def count(self, num_tokens: float, elapsed_s: float, num_sessions: int) -> None:
        """Take note of one round."""
        self._elapsed_s += elapsed_s
        if self._legs and num_sessions != self._trial_size:
            self._legs, self._num_confirmed = [], 0  # what is compared must be alike
        if not self._legs:
            if self._tried_s <= _MOST_TRIED * self._elapsed_s - _leg_s(elapsed_s):
                self._trial_size = num_sessions
                self._begin_leg()
            return
        if _LEGS[len(self._legs) - 1]:
            self._tried_s += elapsed_s
        self._num_rounds += 1
        if self._num_rounds > _NUM_SETTLING:
            tokens, seconds = self._legs[-1]
            self._legs[-1] = (tokens + num_tokens, seconds + elapsed_s)
        if self._num_rounds == _NUM_SETTLING + _NUM_COUNTED:
            if len(self._legs) < len(_LEGS):
                self._begin_leg()
            else:
                self._judge()

    def _begin_leg(self) -> None:
        self._legs.append((0.0, 0.0))
        self._num_rounds = 0

    def _judge(self) -> None:
        before, other, after = (tokens / seconds for tokens, seconds in self._legs)
        self._legs = []
        if other <= _MARGIN * max(before, after):
            self._num_confirmed = 0
            return
        self._num_confirmed += 1
        if self._num_confirmed < _NUM_CONFIRMATIONS:
            self._begin_leg()
            return
        self._num_confirmed = 0
        size = self._trial_size.bit_length()
        self._is_other_best[size] = not self._is_other_best.get(size, False)


def _leg_s(round_s: float) -> float:
    return (_NUM_SETTLING + _NUM_COUNTED) * round_s
