"""What the engine's thread spends its time with, so that what a piece of work waits for can be told apart."""

from enum import IntEnum


class Phase(IntEnum):
    """What the engine's thread does at a moment."""

    WAITING = 0
    """Nothing: for work, or for the company of sessions that are expected."""
    TURN = 1
    """Nothing: another process has its turn on the cores."""
    PLANNING = 2
    """It chooses rows for a decode and puts them together."""
    DECODING = 3
    """The model computes."""
    SAMPLING = 4
    """It chooses tokens from logits, cuts caches and answers, session after session."""


class Phases:
    """Seconds spent in each phase so far. One thread owns it; times are those of `time.perf_counter`."""

    def __init__(self, now_s: float) -> None:
        """Begin now, with waiting."""
        self._spent_s = [0.0] * len(Phase)
        self._phase = Phase.WAITING
        self._since_s = now_s

    def enter(self, phase: Phase, now_s: float) -> None:
        """Another phase begins."""
        self._spent_s[self._phase] += now_s - self._since_s
        self._phase, self._since_s = phase, now_s

    def spent_s(self, now_s: float) -> list[float]:
        """Return what each phase took up to now, the one under way included."""
        spent_s = list(self._spent_s)
        spent_s[self._phase] += now_s - self._since_s
        return spent_s
