"""What is told of many cycles: means, the session that others wait for, decodes; and the command line."""

import json
from pathlib import Path

import pytest

from orchestrator.bench.anatomy import NoCyclesError, anatomy, main, table
from orchestrator.bench.cycles import DRAFT, ORCHESTRATOR, REST, Cycle, cycles_of
from tests.unit.orchestrator.bench import known
from tests.unit.orchestrator.bench.known import KnownSpans, otlp_json


def two_sessions() -> list[Cycle]:
    """Both read their prompts, and then share two decodes: `b`, whose draft is far away, comes last to both."""
    first, second = KnownSpans("a"), KnownSpans("b")
    spans = first.cycle(decode_index=1) + second.cycle(decode_index=2)
    far = known.DRAFT | {"wire": known.DRAFT["wire"] + 100.0}
    waiting = known.TARGET | {"company": known.TARGET["company"] + 100.0}
    for index in (3, 4):
        spans += first.cycle(target=waiting, decode_index=index, num_accepted=1, batch_rows=8)
        spans += second.cycle(far, decode_index=index, num_accepted=3, batch_rows=8)
    return cycles_of(spans)


def test_means_are_of_cycles_that_read_no_prompt() -> None:
    found = anatomy(two_sessions())
    assert (found["num_sessions"], found["num_cycles"], found["tokens_per_cycle"]) == (2, 4, 3.0)
    assert found["parts_ms"]["target"]["company"] == pytest.approx(known.TARGET["company"] + 50.0, abs=1e-4)
    assert found["parts_ms"][DRAFT]["wire"] == pytest.approx(known.DRAFT["wire"] + 50.0, abs=1e-4)
    assert found["parts_ms"][DRAFT]["decode"] == pytest.approx(known.DRAFT["decode"], abs=1e-4)
    total_ms = sum(ms for parts in found["parts_ms"].values() for ms in parts.values())
    assert total_ms == pytest.approx(found["cycle_ms"])


def test_the_session_that_comes_last_is_told_by_itself() -> None:
    found = anatomy(two_sessions())
    assert found["last_ms"]["target"] == pytest.approx(known.TARGET, abs=1e-4)


def test_decodes_are_told_once_however_many_share_them() -> None:
    found = anatomy(two_sessions())["decodes"]
    assert (found["num_decodes"], found["sessions_per_decode"], found["rows_per_decode"]) == (2, 2.0, 8.0)
    assert found["decode_ms"] == pytest.approx(1024.0)
    assert 0 < found["share"] < 1


def test_there_is_no_last_one_where_decodes_are_not_told() -> None:
    cycles = [Cycle("a", index, index * 10**6, (index + 1) * 10**6, 1, draft=None, target=None) for index in range(3)]
    found = anatomy(cycles)
    assert found["parts_ms"] == {ORCHESTRATOR: {ORCHESTRATOR: 1.0}, "draft": {}, "target": {}}
    assert (found["last_ms"], found["decodes"]) == ({}, {})
    assert "| cycle | 1.00 | 1.00 | 100.0% | 0.00 |" in table(found)


def test_a_prompt_alone_is_refused() -> None:
    with pytest.raises(NoCyclesError):
        anatomy(cycles_of(KnownSpans("a").cycle()))


def test_the_table_shows_parts_that_are_there_and_the_rest_always() -> None:
    lines = table(anatomy(two_sessions())).splitlines()
    named = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    assert named[2:] == [
        *("orchestrator", "draft: wire", "draft: service", "draft: company", "draft: others", "draft: planning"),
        *("draft: decode", "draft: sampling", f"draft: {REST}", "target: wire", "target: service", "target: queue"),
        *("target: turn", "target: company", "target: planning", "target: decode", "target: sampling"),
        *(f"target: {REST}", "cycle"),
    ]
    assert f"| target: {REST} | 0.00 | 0.00 | 0.0% | 0.00 |" in lines
    # Nothing comes after the last cycle of a request, so that it ends with its span, 5 ms earlier.
    assert lines[2].split("|")[2:4] == [" 4.50 ", " 1.50 "]
    assert lines[-1] == (
        "2 decodes of the target, with 2.00 sessions and 8.0 rows each, took 1024.00 ms, "
        f"{anatomy(two_sessions())['decodes']['share']:.1%} of the time."
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "no cycle follows the one that reads the prompt"),
        ('{"resourceSpans": []}\n\nno json\n', "line 3 is no OTLP JSON of spans"),
        ('{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}', "line 1 is no OTLP JSON of spans"),
        ("[1, 2]", "line 1 is no OTLP JSON of spans"),
    ],
)
def test_a_file_of_something_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, sentence: str
) -> None:
    path = tmp_path / "spans.json"
    path.write_text(content)
    assert main([str(path)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err


def test_a_file_of_cycles_is_told_in_one_line_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = KnownSpans("ab" * 16)
    exports = [session.cycle(), session.cycle()]
    path = tmp_path / "spans.json"
    path.write_text("\n".join(map(otlp_json, exports)))
    assert main([str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == anatomy(cycles_of(exports[0] + exports[1])) | {"reliability": {}}


def test_a_file_of_cycles_is_told_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = KnownSpans("ab" * 16)
    path = tmp_path / "spans.json"
    path.write_text(otlp_json(session.cycle() + session.cycle()))
    assert main([str(path)]) == 0
    assert capsys.readouterr().out.startswith("| | ms a cycle |")


def test_what_came_of_chances_is_told_beneath(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = KnownSpans("ab" * 16)
    path = tmp_path / "spans.json"
    path.write_text(otlp_json(session.cycle() + session.cycle(num_accepted=1, chances=[0.95, 0.5, 0.4])))
    assert main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("| remote")] == [
        "| remote | 0.5 to 0.6 | 1 | 0.500 | 0.000 (0.000 to 0.793) |",
        "| remote | 0.9 to 1.0 | 1 | 0.950 | 1.000 (0.207 to 1.000) |",
    ]
