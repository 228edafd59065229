"""What the measuring process says becomes costs."""

from typing import Any

import pytest

from orchestrator.costs.measurements import Measurements


def place(role: str = "target", sessions: int = 1, rows: int = 1, context: int = 128, flash: bool = False) -> Any:
    return {"role": role, "sessions": sessions, "rows": rows, "context": context, "flash_attention": flash}


def times(*times_ms: float, busy_elsewhere: float = 0.0, **place_of: Any) -> Any:
    return place(**place_of) | {"times_ms": times_ms, "busy_elsewhere": busy_elsewhere}


PLANNED = [
    place(),
    place(rows=2),
    place(sessions=8, rows=8),
    place(sessions=8, rows=16),
    place(context=256, flash=True),
    place(context=384, flash=True),
    place(role="draft"),
]
FIRST = {
    "machine": "one core",
    "models": {"target": "t", "draft": "d"},
    "settings": {"threads": 1},
    "left_out": {"target": ["any session at context 512: no memory"], "draft": []},
    "planned": PLANNED,
}


@pytest.fixture
def measurements() -> Measurements:
    return Measurements(FIRST, "", {"seconds": 9})


def test_there_are_no_costs_without_the_target(measurements: Measurements) -> None:
    assert measurements.costs() is None
    measurements.add(times(1.0, role="draft"))
    assert measurements.costs() is None
    assert (measurements.num_measured, measurements.num_planned) == (1, 7)


def test_a_point_is_the_median_of_all_its_times_with_their_spread(measurements: Measurements) -> None:
    for times_ms in ((1.0, 9.0), (3.0, 4.0), (5.0,)):
        measurements.add(times(*times_ms))
    costs = measurements.costs()
    assert costs is not None
    (point,) = costs.target.points
    assert (point.ms, point.spread_ms, point.num_times) == (4.0, 2.0, 5)
    assert measurements.num_measured == 1


def test_one_time_has_no_spread(measurements: Measurements) -> None:
    measurements.add(times(1.0))
    costs = measurements.costs()
    assert costs is not None and costs.target.points[0].spread_ms is None


def test_what_was_not_measured_is_said(measurements: Measurements) -> None:
    measurements.add(times(1.0))
    costs = measurements.costs()
    assert costs is not None and costs.draft is None
    assert costs.target.left_out == (
        "any session at context 512: no memory",
        "context 128 without flash attention: 1 session of 2 rows; 8 sessions of 1, 2 rows",
        "context 256, 384 with flash attention: 1 session of 1 row",
    )
    for each in PLANNED:
        measurements.add(times(1.0) | each)
    costs = measurements.costs()
    assert costs is not None and costs.draft is not None
    assert costs.target.left_out == ("any session at context 512: no memory",)
    assert costs.draft.left_out == ()


def test_machine_and_settings_are_as_given_and_as_found(measurements: Measurements) -> None:
    named = Measurements(FIRST, "a small box", {})
    for each in (measurements, named):
        each.add(times(1.0, busy_elsewhere=0.5))
    found, renamed = measurements.costs(), named.costs()
    assert found is not None and renamed is not None
    assert (found.machine, renamed.machine) == ("one core", "a small box")
    assert found.settings == {"threads": 1, "seconds": 9, "busy_elsewhere": 0.5}
    assert "outrider costs" in found.source
