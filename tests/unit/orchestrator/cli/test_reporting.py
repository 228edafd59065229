"""The report of a bench on stdout."""

import re

import pytest

from orchestrator.bench.tables import Table
from orchestrator.cli.reporting import show_report

PARTS = [
    "Yes, [a] draft is worth it.",
    Table(
        ["streams", "setting", "tokens/s (least to most)", "accepted by position"],
        [["1", "auto", "100.0 (99.0 to 101.0)", "0.90 0.85 0.80 0.75"], ["4", "3", "200.0 (199.0 to 201.0)", "0.90"]],
        ["accepted by position"],
    ),
]


def test_a_pipe_gets_markdown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    show_report(PARTS, "b.md")
    assert capsys.readouterr().out == f"{PARTS[0]}\n\n{PARTS[1].markdown()}"  # type: ignore[union-attr]


@pytest.fixture
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.usefixtures("_terminal")
@pytest.mark.parametrize(("columns", "is_whole"), [(50, False), (61, True), (80, True)])
def test_a_terminal_gets_no_wider_lines_than_it_has(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int, is_whole: bool
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    show_report(PARTS, "b.md")
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert "|" not in out
    assert max(map(len, out.splitlines())) <= columns
    assert "Yes, [a] draft is worth it." in out
    assert "200.0 (199.0 to 201.0)" in out
    assert ("0.90 0.85 0.80 0.75" in out) == is_whole
    assert ("no room here for accepted by position: see b.md" in " ".join(out.split())) != is_whole
