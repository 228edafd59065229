"""Files of costs: what is written is read again, and what is none is refused in a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.costs import CPU, H200, Costs, ModelCosts, Point, load_costs, save_costs
from services.frame.program.startup import StartupError

POINT = {"sessions": 1, "rows": 1, "context": 0, "ms": 5}
FILE = {"version": 1, "source": "me", "machine": "mine", "target": {"name": "t", "points": [POINT]}}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_what_is_written_is_read_again_and_a_point_is_a_line(tmp_path: Path) -> None:
    points = (Point(1, 1, 0, 1.5, True, 0.1, 7), Point(4, 16, 512, 3.25, False))
    target = ModelCosts("t", points, left_out=("8 sessions",))
    costs = Costs("me", 'mine { "sessions": 1 }', target, ModelCosts("d", points[:1]), {"threads": 2, "quiet": True})
    path = tmp_path / "costs.json"
    save_costs(path, costs)
    assert load_costs(path) == costs
    assert '{ "sessions": 4, "rows": 16, "context": 512, "ms": 3.25, "flash_attention": false }' in path.read_text()


def test_a_draft_and_settings_may_be_absent(tmp_path: Path) -> None:
    costs = load_costs(write(tmp_path / "costs.json", FILE))
    assert costs == Costs("me", "mine", ModelCosts("t", (Point(1, 1, 0, 5.0),)))
    save_costs(tmp_path / "again.json", costs)
    assert load_costs(tmp_path / "again.json") == costs


def with_point(**changed: Any) -> dict[str, Any]:
    return {**FILE, "target": {"name": "t", "points": [POINT, {**POINT, "rows": 2, **changed}]}}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], 'it has no "version"'),
        ({**FILE, "version": 2}, "of version 2, and this program reads 1"),
        ({**FILE, "source": ""}, "source: "),
        ({**FILE, "speed": 1}, "speed: "),
        ({**FILE, "target": None}, "target: "),
        ({**FILE, "target": {"name": "t", "points": []}}, "target.points: "),
        (with_point(ms=0), "target.points.1.ms: "),
        (with_point(ms="5"), "target.points.1.ms: "),
        (with_point(ms=float("nan")), "target.points.1.ms: "),
        (with_point(rows=1.5), "target.points.1.rows: "),
        (with_point(sessions=0), "target.points.1.sessions: "),
        (with_point(context=-1), "target.points.1.context: "),
        (with_point(mss=1), "target.points.1.mss: "),
        (with_point(sessions=3), "target: 3 sessions, 2 rows, context 0: a session of a decode has a row at least"),
        (with_point(rows=1), "target: 1 sessions, 1 rows, context 0 is there twice"),
        ({**FILE, "target": {**FILE["target"], "flash_attention": True}}, "target: no point was measured with"),
    ],
)
def test_a_bad_file_is_refused_with_the_place(tmp_path: Path, content: Any, problem: str) -> None:
    path = write(tmp_path / "costs.json", content)
    with pytest.raises(StartupError) as refusal:
        load_costs(path)
    assert str(refusal.value).startswith(str(path))
    assert problem in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000])
def test_what_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "costs.json"
    path.write_bytes(content)
    with pytest.raises(StartupError, match="it is not JSON"):
        load_costs(path)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"cannot read costs .*: No such file"):
        load_costs(tmp_path / "none.json")


def test_the_kept_file_says_what_was_measured_on_an_h200() -> None:
    costs = load_costs(H200)
    assert "H200" in costs.machine
    assert costs.target.uses_flash_attention is True
    assert [costs.target.decode_ms(1, num_rows) for num_rows in (1, 2, 4, 8, 16)] == [5.13, 7.29, 7.28, 7.48, 7.96]
    assert [costs.target.decode_ms(8, 8 * each) for each in (1, 2, 4, 8, 16)] == [7.66, 10.14, 9.21, 9.82, 11.83]
    assert costs.draft is not None
    assert [costs.draft.token_ms(num_sessions) for num_sessions in (1, 8)] == [0.70, 1.31]


def test_the_kept_file_of_a_cpu_has_what_was_measured_and_no_more() -> None:
    costs = load_costs(CPU)
    assert costs.draft is None
    assert costs.target.uses_flash_attention is None
    assert costs.target.decode_ms(1, 16) / costs.target.decode_ms(1, 1) == pytest.approx(2.21, rel=0.001)
