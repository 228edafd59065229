"""The pure parts of benchmarks/company.py: who met in decodes, and its tables."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.company_measure import Decode, meeting, read_decodes, within
from benchmarks.company_report import plot, tables
from orchestrator.bench.load.streams import NoSteadyStateError, Window
from tests.unit.orchestrator.bench.runs import run


def decode(start_s: float, *names: str, rows: int = 4, is_verification: bool = True) -> Decode:
    return Decode(start_s, start_s + 0.5, [(name, rows) for name in names], is_verification)


def test_sessions_a_decode_are_those_of_whole_verifications_in_the_steady_state() -> None:
    decodes = [
        decode(0.0, "a", "b", "c"),
        decode(1.0, "a", "b"),
        decode(2.0, "a", is_verification=False),
        decode(3.0, "a", "b", "c", "d"),
        decode(3.8, "a"),
    ]
    met = meeting(decodes, Window(0.9, 4.0))
    assert met["sessions_per_decode"] == 3.0
    assert met["rows_per_decode"] == 12.0
    assert met["num_decodes"] == 2
    assert met["decode_ms"] == pytest.approx(500.0)
    assert met["decoding_share"] == pytest.approx(1.0 / 3.1)
    assert met["decodes_by_num_sessions"] == {"2": 1, "4": 1}


def test_without_a_verification_nobody_met() -> None:
    with pytest.raises(NoSteadyStateError):
        meeting([decode(1.0, "a", is_verification=False)], Window(0.0, 9.0))


def test_what_a_service_wrote_is_read_back() -> None:
    line = json.dumps({"start_s": 1.0, "end_s": 1.5, "sessions": [["a", 4]], "is_verification": True})
    assert read_decodes([line]) == [decode(1.0, "a")]
    assert within(read_decodes([line]), Window(1.2, 2.0)) == []


def recorded(system: str) -> dict[str, Any]:
    decodes = {"target": [decode(0.1, "a", "b")], "draft": [decode(0.7, "a", rows=1)]}
    return run(system, "3", 30.0) | {
        "window": [0.0, 2.0],
        "meeting": meeting(decodes["target"], Window(0, 2)),
        "decodes": decodes,
    }


def test_tables_have_a_row_for_every_case_with_as_many_cells_as_the_header() -> None:
    runs = [
        run(system, setting, 10) for system in ("ours", "theirs", "floor", "llama-server") for setting in ("plain", "3")
    ]
    written = tables({"runs": runs, "recorded": [recorded("ours")]}, "ours", "theirs")
    cases, best, met = (part.splitlines() for part in written.strip().split("\n\n"))
    assert len(cases) == 2 + 8
    assert len(best) == len(met) == 2 + 1
    for table in (cases, best, met):
        assert len({line.count("|") for line in table}) == 1
    assert "| 4 | plain | ours | 1 | 10.0 (10.0 to 10.0) | 50, 95 | 50, 95 | 2.50 | 1.00 | 1.00 | 1.00 |" in cases
    assert met[2].startswith("| 4 | 3 | ours | 30.0 | 2.0 | 8.0 | 500.0 |")


def test_tables_without_another_checkout_and_yardsticks_have_no_columns_for_them() -> None:
    written = tables({"runs": [run("ours", "1", 10)], "recorded": []}, "ours", "theirs")
    assert "theirs" not in written
    assert "llama-server" not in written


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is in the extra `train`")
def test_a_picture_is_drawn(tmp_path: Path) -> None:
    plot([recorded("ours"), recorded("theirs")], 4, "3", 1.5, tmp_path / "met.svg")
    assert "<svg" in (tmp_path / "met.svg").read_text()


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_without_matplotlib_a_picture_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="matplotlib"):
        plot([recorded("ours")], 4, "3", 1.5, tmp_path / "met.svg")
