"""What a training run does when, and how its time is counted."""

from __future__ import annotations

import pytest

from models.train.schedule import STAGES, Budget, lr_factor, momentum_at, stage_at


@pytest.mark.parametrize(("progress", "length"), [(0.0, 256), (0.54, 256), (0.56, 1024), (0.93, 2048), (1.0, 2048)])
def test_windows_grow_to_the_whole_context(progress: float, length: int) -> None:
    assert stage_at(progress).length == length


def test_every_pass_holds_as_many_tokens() -> None:
    assert {stage.batch * stage.length for stage in STAGES} == {2048}


def test_learning_rate_rises_stays_and_falls_to_nearly_nothing() -> None:
    assert lr_factor(0.0) < lr_factor(0.01) < lr_factor(0.02) == lr_factor(0.3) == 1.0
    falling = [lr_factor(share / 100) for share in range(36, 101)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] == pytest.approx(0.02)


def test_momentum_is_warmed_up() -> None:
    assert momentum_at(0.0) == pytest.approx(0.85)
    assert momentum_at(0.5) == pytest.approx(0.95)


def test_time_spent_stopped_does_not_count() -> None:
    budget = Budget(total_s=100.0, longest_step_s=15.0)
    budget.add(2.0)
    budget.add(3600.0)
    assert budget.spent_s == pytest.approx(17.0)
    assert budget.progress == pytest.approx(0.17)


def test_progress_never_passes_one() -> None:
    budget = Budget(total_s=10.0, spent_s=9.0)
    budget.add(5.0)
    assert budget.progress == 1.0
