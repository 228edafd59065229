"""The pure parts of benchmarks/company.py: the steady state, who met in decodes, and how systems are compared."""

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.company_measure import (
    Chunk,
    Decode,
    NoSteadyStateError,
    Stream,
    Window,
    measure,
    meeting,
    read_decodes,
    run_together,
    steady_window,
    within,
)
from benchmarks.company_report import best_case, best_setting, kept_cases, plot, ratio, tables


def stream(*chunks: tuple[float, int], has_ended: bool = False) -> Stream:
    return Stream([Chunk(*chunk) for chunk in chunks], has_ended)


def test_the_steady_state_is_from_the_last_first_token_to_the_first_end() -> None:
    early = stream((1.0, 1), (2.0, 1), (5.0, 1), has_ended=True)
    late = stream((3.0, 1), (4.0, 1), (4.5, 1))
    assert steady_window([early, late]) == Window(3.0, 5.0)


def test_a_stream_that_was_cut_off_does_not_end_the_steady_state() -> None:
    ended = stream((1.0, 1), (4.0, 1), has_ended=True)
    assert steady_window([ended, stream((1.0, 1), (2.0, 1))]) == Window(1.0, 4.0)


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param([stream((1.0, 1), (2.0, 1), has_ended=True), stream()], id="one never began"),
        pytest.param([stream((1.0, 1), (2.0, 1), has_ended=True), stream((2.0, 1), (3.0, 1))], id="one began too late"),
        pytest.param([stream((1.0, 1), (2.0, 1))], id="none ended"),
        pytest.param([stream((1.0, 4), has_ended=True)], id="all came at once"),
    ],
)
def test_without_a_steady_state_nothing_is_measured(streams: list[Stream]) -> None:
    with pytest.raises(NoSteadyStateError):
        measure(streams)


async def test_streams_are_cut_off_when_the_first_one_ends() -> None:
    is_cut_off = False

    async def short(stream: Stream) -> None:
        stream.add(1)

    async def endless(stream: Stream) -> None:
        nonlocal is_cut_off
        stream.add(1)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            is_cut_off = True
            raise

    streams = await run_together([endless, short], 10)
    assert is_cut_off
    assert [(stream.num_tokens, stream.has_ended) for stream in streams] == [(1, False), (1, True)]


async def test_streams_are_cut_off_after_so_many_tokens_since_all_have_begun() -> None:
    begun: list[Stream] = []
    ahead = 0

    async def early(stream: Stream) -> None:
        begun.append(stream)
        while True:
            stream.add(2)
            await asyncio.sleep(0)

    async def late(stream: Stream) -> None:
        nonlocal ahead
        ahead = begun[0].num_tokens
        stream.add(1)
        await asyncio.Event().wait()

    first, second = await run_together([early, late], 1000)
    assert (first.has_ended, second.has_ended) == (True, False)
    assert first.num_tokens >= ahead + 1000


async def test_what_goes_wrong_with_a_stream_is_raised() -> None:
    async def failing(stream: Stream) -> None:
        raise ConnectionError("gone")

    async def endless(stream: Stream) -> None:
        stream.add(1)
        await asyncio.Event().wait()

    with pytest.raises(ConnectionError, match="gone"):
        await run_together([endless, failing], 1)


def test_tokens_are_counted_in_the_steady_state_only() -> None:
    first = stream((0.0, 1), (1.0, 4), (2.0, 4), (3.0, 2), has_ended=True)
    second = stream((1.0, 1), (2.5, 3), (3.5, 4))
    figures = measure([first, second])
    assert figures["window_s"] == 2.0
    assert figures["num_tokens"] == 4 + 2 + 3
    assert figures["tokens_per_s"] == 4.5
    assert figures["tokens_per_chunk"] == 3.0


def test_times_between_chunks_are_each_streams_own() -> None:
    first = stream((0.0, 1), (1.0, 1), (3.0, 2), has_ended=True)
    second = stream((0.5, 1), (0.75, 1))
    figures = measure([first, second])
    # 2 s for two tokens; what lies partly before the steady state is left out.
    assert figures["chunk_ms_p50"] == pytest.approx(1125.0)
    assert figures["token_ms_p50"] == pytest.approx(1000.0)


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


def run(system: str, setting: str, rate: float, number: int = 0, num_streams: int = 4) -> dict[str, Any]:
    figures = {"chunk_ms_p50": 50.0, "chunk_ms_p95": 60.0, "token_ms_p50": 20.0, "token_ms_p95": 25.0}
    case = {"system": system, "setting": setting, "num_streams": num_streams, "round": number}
    return case | {"tokens_per_s": rate, "tokens_per_chunk": 2.5} | figures


def test_the_best_number_of_draft_tokens_is_the_one_with_the_highest_median() -> None:
    runs = [run("ours", "plain", 90), run("ours", "1", 10), run("ours", "3", 30), run("ours", "7", 20)]
    assert best_setting(runs, "ours", 4) == "3"
    assert best_case(runs, "ours", 4) == ("ours", "plain")
    assert best_setting(runs[:1], "ours", 4) is None
    assert best_case(runs, "theirs", 4) is None


def test_halving_keeps_plain_decoding_and_the_best_number_which_checkouts_share() -> None:
    runs = [run("ours", "1", 10), run("ours", "3", 30), run("before", "1", 20), run("before", "3", 10)]
    runs += [run("floor", "1", 10), run("floor", "3", 20)]
    settings = {"ours": ["plain", "1", "3"], "before": ["alone", "1", "3"], "floor": ["plain", "1", "3"]}
    kept = kept_cases(runs, settings, ["ours", "before"], 4)
    ours = {("ours", "plain"), ("ours", "1"), ("ours", "3")}
    assert kept == ours | {("before", "alone"), ("before", "1"), ("before", "3"), ("floor", "plain"), ("floor", "3")}


def test_a_yardstick_may_be_one_of_several_systems() -> None:
    runs = [run("floor", "3", 40), run("floor, flash attention", "3", 50)]
    assert best_case(runs, "floor", 4) == ("floor, flash attention", "3")


def test_a_ratio_is_the_median_of_the_rounds_that_have_both() -> None:
    runs = [run("ours", "3", rate, number) for number, rate in enumerate((10, 30, 50, 999))]
    runs += [run("theirs", "3", rate, number) for number, rate in enumerate((10, 10, 10))]
    assert ratio(runs, ("ours", "3"), ("theirs", "3"), 4) == 3.0
    assert ratio(runs, ("ours", "3"), ("theirs", "7"), 4) is None
    assert ratio(runs, ("ours", "3"), None, 4) is None


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
    assert "| 4 | plain | ours | 1 | 10.0 (10.0 to 10.0) | 50, 60 | 20, 25 | 2.50 | 1.00 | 1.00 | 1.00 |" in cases
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
