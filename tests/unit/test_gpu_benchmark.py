"""The parts of benchmarks/gpu: what one of them does costs none of the others."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.parts import Part, run_parts
from benchmarks.gpu.run import LIMITS_S, TOTAL_S, parse, planned_parts


def part(name: str, code: str, limit_s: float = 60.0) -> Part:
    return Part(name, (sys.executable, "-c", code), limit_s)


def test_a_part_that_fails_or_is_not_there_costs_only_itself(tmp_path: Path) -> None:
    parts = [part("bad", "raise SystemExit(3)"), Part("none", ("/no/such",), 60.0), part("good", "print('said')")]
    bad, none, good = run_parts(parts, tmp_path, 60.0)
    assert (bad.exit_code, bad.is_good) == (3, False)
    assert (none.exit_code, none.problem) == (None, "/no/such: No such file or directory")
    assert (good.exit_code, good.is_good) == (0, True)
    assert (tmp_path / "good.log").read_text() == "said\n"
    assert [each["name"] for each in json.loads((tmp_path / "parts.json").read_text())] == ["bad", "none", "good"]


def test_a_part_over_its_limit_is_interrupted_and_the_next_one_runs(tmp_path: Path) -> None:
    waiting = "import signal\ntry:\n    signal.pause()\nexcept KeyboardInterrupt:\n    print('saved')"
    first, second = run_parts([part("slow", waiting, 1.0), part("next", "")], tmp_path, 60.0)
    assert first.was_ended and not first.is_good
    assert second.is_good


def test_what_the_results_say_is_there_while_later_parts_run(tmp_path: Path) -> None:
    look = (
        f"import json; assert [part['name'] for part in json.load(open({str(tmp_path / 'parts.json')!r}))] == ['one']"
    )
    assert all(each.is_good for each in run_parts([part("one", ""), part("two", look)], tmp_path, 60.0))


def test_without_time_left_a_part_does_not_run(tmp_path: Path) -> None:
    (outcome,) = run_parts([part("late", "")], tmp_path, 0.0)
    assert outcome.problem == "no time was left"
    assert not (tmp_path / "late.log").exists()


def test_all_parts_together_take_under_12_minutes() -> None:
    assert sum(LIMITS_S.values()) <= TOTAL_S < 720


def test_what_is_run_is_as_the_command_line_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    flags = ["--preset", "8b", "--limit", "costs=10", "--flags", "bench=--tokens 8", "--peer-llama-server", "/a/server"]
    parts = {part.name: part for part in planned_parts(parse(["--out", str(tmp_path), *flags]))}
    assert list(parts) == list(LIMITS_S)
    target = str(tmp_path / "outrider-8b" / "target.gguf")
    assert all(target in " ".join(part.command) for part in parts.values())
    assert (parts["costs"].limit_s, parts["bench"].limit_s) == (10.0, LIMITS_S["bench"])
    assert " --budget 8 " in " ".join(parts["costs"].command)
    assert " ".join(parts["bench"].command).endswith("--peer-llama-server /a/server --tokens 8")
    (part,) = planned_parts(parse(["--out", str(tmp_path), "--only", "exactness"]))
    assert part.name == "exactness"


@pytest.mark.parametrize("flags", [["--limit", "bed=1"], ["--limit", "bench=long"], ["--only", "bed"], []])
def test_bad_use_ends_before_anything_runs(flags: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([*flags, *(["--out", str(tmp_path)] if flags else [])])
    assert ended.value.code == 2
