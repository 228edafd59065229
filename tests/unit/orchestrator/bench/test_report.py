"""The sentence, the tables under it, and what goes to JSON."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench.cycles import Cycle
from orchestrator.bench.reliability import reliability
from orchestrator.bench.results.comparison import without_draft
from orchestrator.bench.results.plot import check_plotting, plot, plot_reliability
from orchestrator.bench.results.report import markdown, memory, short, summarize
from orchestrator.bench.tables import Table
from services.frame.program.startup import StartupError
from tests.unit.orchestrator.bench.runs import run

MIB = 1 << 20


def results(**more: Any) -> dict[str, Any]:
    runs = [
        run(
            "outrider",
            setting,
            rate + number,
            number,
            memory_bytes={"target": (100 + number) * MIB, "draft": 20 * MIB},
            **({"accepted_per_position": [0.9, 0.5], "passes_per_token": 0.4} if setting == "3" else {}),
        )
        for number in range(3)
        for setting, rate in (("plain", 100), ("plain again", 101), ("3", 150), ("auto", 140))
    ]
    runs += [run("llama-server", "ngram-mod", 120, number, agreements=[1.0, 1.01]) for number in range(3)]
    return {"about": {}, "runs": runs, "failures": [], **more}


def test_the_answer_comes_first_and_the_tables_under_it() -> None:
    parts = markdown(results(), "outrider").split("\n\n")
    assert parts[0].startswith("Yes, a draft is worth it here: with 4 streams (1.49 times")
    tables = [part for part in parts if part.startswith("|")]
    assert [len(table.splitlines()) for table in tables] == [2 + 5, 2 + 1, 2 + 1]
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    cases = tables[0].splitlines()
    assert [line.split(" | ")[2] for line in cases[2:]] == ["plain", "plain again", "auto", "3", "ngram-mod"]
    assert "151.0 (150.0 to 152.0) | 1.50 | 50.0, 95.0 | 50.0, 95.0, 99.0 | 0.90 0.50 | 0.40 |" in cases[5]
    assert "1.01 (noise)" in cases[3]


def test_json_has_what_the_tables_have() -> None:
    summary = summarize(results(), "outrider")
    (draft,) = summary["drafts"]
    assert (draft["case"], draft["kind"], draft["num_streams"]) == (("outrider", "3"), "faster", 4)
    (other,) = summary["systems"]
    assert other["reference"] == ("llama-server", "ngram-mod")
    assert summary["noise"]["4"] == pytest.approx(0.01, abs=1e-3)


def test_the_drafts_memory_is_told_in_percent_of_the_targets() -> None:
    (row,) = memory(results()["runs"])
    assert row == {
        "system": "outrider",
        "memory_bytes": {"target": 102 * MIB, "draft": 20 * MIB},
        "draft_percent": pytest.approx(100 * 20 / 102),
    }


def test_checks_and_failures_are_told() -> None:
    failures = [{"system": "peer", "error": "it is away"}]
    told = markdown(results(failures=failures, span_agreements=[0.9, 0.9]), "outrider")
    assert (
        "- decode rate of llama-server / its own timings: 1.005 (least 1.000, most 1.010, 6 streams), within 2%" in told
    )
    assert "- decode rate / that of the spans: 0.900 (least 0.900, most 0.900, 2 streams), NOT within 2%" in told
    assert "- Failed: peer, it is away." in told


def test_a_single_round_says_that_it_chose_and_compared() -> None:
    runs = [run("outrider", setting, rate) for setting, rate in (("plain", 100), ("plain again", 100), ("3", 150))]
    told = markdown({"about": {}, "runs": runs, "failures": []}, "outrider")
    assert "chosen by the same rounds that it is compared in" in told
    assert "the later rounds only" not in told


def test_a_draft_that_was_not_used_is_named_and_no_verdict_on_it_is_claimed() -> None:
    counts = {"num_cycles": 24, "num_drafts": 0, "num_fallbacks": 1}
    told = results()
    for each in told["runs"]:
        if each["setting"] == "3":
            each.update(counts)
    text = markdown(told, "outrider")
    assert text.startswith("Whether a draft is worth it here is not known, as it was mostly not used: with 4 streams")
    assert "- outrider, 3, 4 streams: the draft was not used in 72 of 72 cycles." in text
    assert "1.50 (draft not used)" in text


@pytest.mark.parametrize(
    ("setting", "num_drafts", "num_fallbacks", "expected"),
    [
        ("3", 80, 0, None),
        ("3", 10, 0, (90, 100)),
        ("auto", 10, 0, None),
        ("auto", 10, 2, None),
        ("auto", 0, 2, (100, 100)),
        ("ngram", 10, 0, None),
        ("plain", 0, 0, None),
    ],
)
def test_cycles_without_a_draft_count_where_one_was_meant(
    setting: str, num_drafts: int, num_fallbacks: int, expected: tuple[int, int] | None
) -> None:
    counts: dict[str, Any] = {"num_cycles": 100, "num_drafts": num_drafts, "num_fallbacks": num_fallbacks}
    runs = [run("outrider", setting, 100, **counts)]
    assert without_draft(runs, ("outrider", setting), 4) == expected
    assert without_draft([run("peer", "3", 100)], ("peer", "3"), 4) is None, "a peer tells no counts"


def test_one_stream_is_told_as_one() -> None:
    told = results(span_agreements=[1.0])
    for each in told["runs"]:
        each["num_streams"] = 1
    text = markdown(told, "outrider")
    assert "with 1 stream apart" in text
    assert "most 1.000, 1 stream)" in text
    assert "1 streams" not in text


def test_that_sentence_and_rows_count_different_rounds_is_told() -> None:
    assert "counts the later rounds only" in markdown(results(), "outrider")


CYCLES = [Cycle("a", 1, 0, 1, num_tokens, None, None, "remote", [0.9, 0.6]) for num_tokens in (1, 2, 3, 3)]


def test_how_far_chances_hold_is_told_in_a_note_and_a_table() -> None:
    told = results(reliability=reliability(CYCLES))
    text = markdown(told, "outrider")
    assert "- Chances of draft tokens with auto, predicted against seen: expected calibration error 0.114" in text
    assert "Chances of draft tokens, as predicted and as seen:\n\n| drafter | chance |" in text
    summary = summarize(told, "outrider")
    assert summary["reliability"] == told["reliability"]
    shown = "\n".join(part for part in short(told, summary) if isinstance(part, str))
    assert "expected calibration error" in shown
    assert "as predicted and as seen" not in shown


def test_without_chances_nothing_is_told_of_them() -> None:
    assert "hances" not in markdown(results(reliability={}), "outrider")


def test_the_system_is_told_in_little_room_where_there_are_several() -> None:
    several = results()
    alone = results(runs=[run("outrider", setting, 100) for setting in ("plain", "3")])
    for told, has_system in ((several, True), (alone, False)):
        cases = short(told, summarize(told, "outrider"))[1]
        assert isinstance(cases, Table)
        assert ("system" in cases.fitted(70).header) == has_system
        assert "tokens/s (least to most)" in cases.fitted(70).header


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is in the extra `train`")
def test_pictures_are_drawn(tmp_path: Path) -> None:
    check_plotting()
    plot(results(), tmp_path / "bench.svg")
    plot_reliability(reliability(CYCLES), tmp_path / "reliability.svg")
    for name in ("bench", "reliability"):
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_without_matplotlib_a_picture_is_refused_in_a_sentence() -> None:
    with pytest.raises(StartupError, match="--plot needs matplotlib"):
        check_plotting()
