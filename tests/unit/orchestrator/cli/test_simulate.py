"""`outrider simulate` as it is typed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import simulating
from orchestrator.simulation.scenario import LinearCosts, Scenario, TokenCosts
from orchestrator.simulation.traces import Seen
from tests.unit.orchestrator.cli.running import run

COSTS = {"version": 1, "source": "a test", "machine": "a machine", "target": {"name": "t", "points": []}}


def test_one_line_of_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "simulate", "--scenario", "4", "--policy", "plain", "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    (row,) = json.loads(line)
    assert (row["scenario"], row["policy"], row["num_draft_tokens"]) == (4, "plain", 0)
    assert row["achieved"] == pytest.approx(row["plain"], rel=1e-3)
    assert row["ideal"] > row["plain"]


def test_a_sentence_and_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "simulate", "--scenario", "1", "--policy", "fixed", "--num-draft-tokens", "5") == 0
    out = capsys.readouterr().out
    assert "A draft is worth it here: 5 draft tokens" in " ".join(out.split())
    assert "LAN" in out
    assert "Assumed: 1 stream; 0.8 of the draft tokens accepted" in " ".join(out.split())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param(["--policy", "plain"], "49.3 tokens/s. No draft was tried.", id="no draft"),
        pytest.param(
            ["--policy", "fixed", "--num-draft-tokens", "64"],
            "64 draft tokens give 0.58 times the 49.3 tokens/s of plain decoding. The best number",
            id="one number",
        ),
    ],
)
def test_what_was_not_tried_is_not_judged(
    flags: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "simulate", "--scenario", "1", *flags) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert expected in out
    assert "worth it" not in out


def test_costs_of_a_file_and_something_else_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "costs.json"
    target = {"name": "t", "points": [{"sessions": 1, "rows": 1, "context": 0, "ms": 10.0}]}
    draft = {"name": "d", "points": [{"sessions": 1, "rows": 1, "context": 0, "ms": 1.0}]}
    path.write_text(json.dumps(COSTS | {"target": target, "draft": draft}))
    flags = "--policy", "plain", "--what", "streams=2,acceptance=0.5", "--json"
    assert run(monkeypatch, "simulate", "--costs", str(path), *flags) == 0
    (row,) = json.loads(capsys.readouterr().out)
    # Both streams in one decode of 10 ms and a round trip to the target.
    assert row["plain"] == pytest.approx(2 / 0.0102, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--scenario", "11"], "'--scenario'", id="no such scenario"),
        pytest.param(
            ["--policy", "best"],
            "outrider: --policy is 'best', which is none: there are plain, fixed and auto\n",
            id="none",
        ),
        pytest.param(["--policy", ""], "outrider: --policy is ''", id="an empty policy"),
        pytest.param(["--costs", "no/such"], "cannot read costs no/such", id="no costs"),
        pytest.param(["--from", "no/such"], "cannot read traces no/such: No such file", id="no traces"),
        pytest.param(["--from", sys.executable], "is no OTLP JSON of spans", id="a program as traces"),
        pytest.param(["--from", "a", "--scenario", "1"], "give one of them", id="traces and a scenario"),
        pytest.param(["--from", "a", "--real"], "leave out --real", id="traces in real time"),
        pytest.param(["--what", "speed=1"], "--what has 'speed=1'", id="an unknown change"),
        pytest.param(
            ["--what", "streams=2, streams=4"], "--what has streams twice, as 2 and as 4", id="a change twice"
        ),
        pytest.param(["--what", "streams"], "write NAME=VALUE", id="a change without a value"),
        pytest.param(["--what", "streams=0"], "a whole number from 1 to 256", id="no streams"),
        pytest.param(["--what", "acceptance=nan"], "a number from 0 to 1", id="no acceptance"),
        pytest.param(["--what", "target=2"], "name a file that `outrider costs` wrote", id="a target by a number"),
    ],
)
def test_bad_use(
    arguments: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "simulate", *arguments) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_costs_without_a_draft(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "costs.json"
    target = {"name": "t", "points": [{"sessions": 1, "rows": 1, "context": 0, "ms": 10.0}]}
    path.write_text(json.dumps(COSTS | {"target": target}))
    assert run(monkeypatch, "simulate", "--costs", str(path)) == 2
    assert "the file of costs has no draft" in capsys.readouterr().err


def see(monkeypatch: pytest.MonkeyPatch, num_draft_tokens: int) -> None:
    """Let any traces show a stream with so many draft tokens."""
    scenario = Scenario(0, "as seen", LinearCosts(20, 0.3), TokenCosts(1.0), [0.5], (0.7,))
    monkeypatch.setattr(simulating, "read_spans", lambda path: [])
    monkeypatch.setattr(simulating, "look_at", lambda spans: Seen(scenario, num_draft_tokens, 50.0, [], 20, 0))


def test_traces_without_drafts_say_nothing_of_other_drafts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    see(monkeypatch, num_draft_tokens=0)
    assert run(monkeypatch, "simulate", "--from", "a", "--what", "draft=1.5") == 2
    assert "no drafts were seen: say acceptance with --what too" in capsys.readouterr().err


def test_rows_of_traces_and_of_changes_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    see(monkeypatch, num_draft_tokens=2)
    flags = "--what", "draft=1.5", "--policy", "fixed", "--json"
    assert run(monkeypatch, "simulate", "--from", "a", *flags) == 0
    assert [row["variant"] for row in json.loads(capsys.readouterr().out)] == ["as seen", "draft=1.5"]


def test_it_needs_no_llama_cpp() -> None:
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('llama_cpp', 'gguf', 'psutil')))\n"
        "from orchestrator.cli import simulating\n"
        "from orchestrator.simulation.run import simulate\n"
        "from orchestrator.simulation.scenario import scenarios\n"
        "from orchestrator.simulation.streams import policy_of\n"
        "print(simulate(scenarios()[0], policy_of('plain'), 1.0).tokens_per_s)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(49.26, abs=0.01)
