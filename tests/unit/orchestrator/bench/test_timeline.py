"""What is drawn of cycles, and where."""

import importlib.util
from pathlib import Path

import pytest

from orchestrator.bench.cycles import cycles_of
from orchestrator.bench.timeline import PlotError, draw_timeline, timeline, usual_view
from tests.unit.orchestrator.bench.known import KnownSpans

HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None
needs_matplotlib = pytest.mark.skipif(not HAS_MATPLOTLIB, reason="matplotlib is in the extra `bench`")


def test_a_cycle_is_a_draft_a_wait_and_a_decode() -> None:
    cycles = cycles_of(KnownSpans("a").cycle(decode_index=5))
    found = timeline(cycles)
    draft, wait, decode = found.boxes
    assert (found.num_rows, draft.row, draft.kind, draft.decode) == (1, 0, "draft", None)
    assert (wait.kind, decode.kind, decode.decode) == ("wait", "decode", 5)
    assert draft.started_s == pytest.approx(0.002)
    assert draft.ended_s == wait.started_s
    assert wait.ended_s == decode.started_s
    assert decode.ended_s - decode.started_s == pytest.approx(1.024)


def test_a_cycle_that_was_not_answered_is_not_drawn() -> None:
    spans = [span for span in KnownSpans("a").cycle(draft=None) if span.name != "target.verify"]
    assert timeline(cycles_of(spans)).boxes == []


def test_sessions_that_run_at_once_have_rows_of_their_own() -> None:
    first, second = KnownSpans("a"), KnownSpans("b", now_ms=1.0)
    spans = first.cycle() + second.cycle() + first.cycle()
    third = KnownSpans("c", now_ms=second.now_ms + 1.0)
    found = timeline(cycles_of(spans + third.cycle()))
    assert found.num_rows == 2
    assert [box.row for box in found.boxes if box.kind == "draft"] == [0, 1, 0, 1]


def test_nothing_is_a_timeline_of_no_rows() -> None:
    assert timeline([]).num_rows == 0


def test_what_is_shown_begins_when_all_have_read_their_prompts() -> None:
    first, second = KnownSpans("a"), KnownSpans("b", now_ms=100.0)
    cycles = cycles_of(first.cycle() + second.cycle() + first.cycle() + second.cycle())
    later = KnownSpans("c", now_ms=second.now_ms)
    from_s, shown_s = usual_view([*cycles, *cycles_of(later.cycle())])
    assert from_s == pytest.approx((cycles[1].ended_ns - cycles[0].started_ns) / 1e9)
    assert shown_s == pytest.approx(10 * cycles[0].duration_ms / 1e3, rel=0.01)


def test_nothing_is_shown_of_nothing() -> None:
    assert usual_view([]) == (0.0, 0.0)


@needs_matplotlib
@pytest.mark.parametrize(("name", "begins"), [("plot.svg", b"<?xml"), ("plot.png", b"\x89PNG")])
def test_a_plot_is_what_its_name_says(tmp_path: Path, name: str, begins: bytes) -> None:
    known = KnownSpans("a")
    draw_timeline(cycles_of(known.cycle() + known.cycle()), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


@needs_matplotlib
def test_the_same_cycles_give_the_same_file(tmp_path: Path) -> None:
    cycles = cycles_of(KnownSpans("a").cycle())
    for name in ("one.svg", "two.svg"):
        draw_timeline(cycles, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


@needs_matplotlib
@pytest.mark.parametrize(
    ("name", "from_s", "sentence"), [("plot.pdf", 0.0, ".svg or a .png"), ("p.svg", 9.0, "after 9 s")]
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, name: str, from_s: float, sentence: str) -> None:
    with pytest.raises(PlotError, match=sentence):
        draw_timeline(cycles_of(KnownSpans("a").cycle()), tmp_path / name, from_s=from_s)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(HAS_MATPLOTLIB, reason="matplotlib is installed")
def test_without_matplotlib_a_sentence_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(PlotError, match=r"pip install 'outrider\[bench\]'"):
        draw_timeline(cycles_of(KnownSpans("a").cycle()), tmp_path / "plot.svg")
