"""What a run does when, by the share of its time budget spent: sequence lengths, learning rate, momentum."""

from __future__ import annotations

from dataclasses import dataclass

TOKENS_PER_PASS = 2048
"""Rows of one forward and backward pass; what fits a CPU's cache best."""
WARMUP_SHARE = 0.02
DECAY_FROM = 0.35
FINAL_FACTOR = 0.02


@dataclass(frozen=True, slots=True)
class Stage:
    """Train on windows of ``length`` tokens, ``num_passes`` passes a step, until ``until`` of the budget is spent."""

    until: float
    length: int
    num_passes: int = 2

    @property
    def batch(self) -> int:
        """Windows in one pass."""
        return max(1, TOKENS_PER_PASS // self.length)


STAGES = (Stage(0.15, 256), Stage(0.55, 256, 4), Stage(0.92, 1024, 4), Stage(1.0, 2048, 4))
"""Short windows are cheap and teach syntax; the long ones at the end make the whole context real.

The first steps are small, because there are many to take; the later ones large, because Muon's work is paid per step.
"""


def stage_at(progress: float, stages: tuple[Stage, ...] = STAGES) -> Stage:
    """Return the stage of a progress in [0, 1]."""
    return next((stage for stage in stages if progress < stage.until), stages[-1])


def lr_factor(progress: float) -> float:
    """Rise linearly over the first 2 %, stay at 1, then fall linearly to 2 % of the peak."""
    if progress < WARMUP_SHARE:
        return max(progress / WARMUP_SHARE, FINAL_FACTOR)
    if progress < DECAY_FROM:
        return 1.0
    share = min(1.0, (progress - DECAY_FROM) / (1.0 - DECAY_FROM))
    return 1.0 + share * (FINAL_FACTOR - 1.0)


def momentum_at(progress: float) -> float:
    """Muon's momentum rises from 0.85 to 0.95 over the first 5 %."""
    return 0.85 + 0.10 * min(1.0, progress / 0.05)


class Budget:
    """Time spent on training, counted step by step, so that a paused process does not use up its budget."""

    def __init__(self, total_s: float, spent_s: float = 0.0, longest_step_s: float = 15.0) -> None:
        self.total_s = total_s
        self.spent_s = spent_s
        self.longest_step_s = longest_step_s

    def add(self, step_s: float) -> None:
        """Count one step; of a longer one than ``longest_step_s`` (the process was stopped) only that much."""
        self.spent_s += min(step_s, self.longest_step_s)

    @property
    def progress(self) -> float:
        """Share of the budget spent, at most 1."""
        return min(1.0, self.spent_s / self.total_s)
