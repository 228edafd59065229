"""`outrider costs`: a file of what was measured, also of a run that was cut short."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from models.tiny import write_tiny_pair
from orchestrator.costs import load_costs
from services.frame.program.startup import StartupError
from tests.e2e.programs import command, environment, lives, run
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.e2e

# More than it takes.
PLENTY = ("--budget", "600")


@pytest.fixture
def flags(tmp_path: Path) -> list[str]:
    """For a tiny pair, and the name of a file that is not there yet."""
    target, draft = write_tiny_pair(tmp_path)
    return ["--target", str(target), "--draft", str(draft), "--threads", "1", "--out", str(tmp_path / "costs.json")]


def test_all_that_was_planned_is_measured_and_said_of_which_machine(
    home: Path, tmp_path: Path, flags: list[str]
) -> None:
    little = ("--slots", "1", "--context", "64")
    finished = run(home, "costs", *flags, *PLENTY, *little, "--machine", "a small box", "--json")
    assert finished.returncode == 0, finished.stderr
    out = tmp_path / "costs.json"
    assert json.loads(finished.stdout) == json.loads(out.read_text())
    assert finished.stderr.startswith(f"outrider: {out} has 12 of 12 decodes\n")
    costs = load_costs(out)
    assert costs.machine == "a small box"
    assert costs.settings["threads"] == 1
    assert costs.target.name.startswith("tiny-target, ")
    assert {(point.num_sessions, point.num_rows) for point in costs.target.points} == {(1, n) for n in (1, 2, 4, 8, 16)}
    assert {point.flash_attention for point in costs.target.points} == {False, True}
    assert costs.target.left_out == ()
    assert costs.draft is not None
    assert costs.draft.token_ms(1) > 0
    # A file of costs may be replaced.
    finished = run(home, "costs", *flags, *PLENTY, *little)
    assert finished.returncode == 0, finished.stderr
    assert "rows of each session" in finished.stdout
    assert load_costs(out).machine.startswith("1 thread on ")


@contextmanager
def measuring(home: Path, flags: list[str]) -> Iterator["subprocess.Popen[str]"]:
    """A run that goes on for long, from when there is a file."""
    process = subprocess.Popen(
        command("costs", *flags, *PLENTY, "--context", "2048"),
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        eventually(Path(flags[-1]).exists)
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def test_a_killed_run_keeps_what_it_had_and_leaves_no_process(home: Path, flags: list[str]) -> None:
    with measuring(home, flags) as process:
        children = psutil.Process(process.pid).children()
        process.kill()
        eventually(lambda: not any(map(lives, children)))
    assert load_costs(Path(flags[-1])).target.points


def test_an_interrupted_run_says_how_far_it_came(home: Path, flags: list[str]) -> None:
    with measuring(home, flags) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130
    assert f"{flags[-1]} has " in said
    assert load_costs(Path(flags[-1])).target.points


def test_a_model_that_cannot_be_loaded_is_refused_in_a_sentence(home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    finished = run(home, "costs", "--target", str(broken), "--out", str(tmp_path / "costs.json"))
    assert finished.returncode == 2
    assert finished.stderr.startswith("outrider-costs: ")
    assert len(finished.stderr.splitlines()) == 1
    with pytest.raises(StartupError):
        load_costs(tmp_path / "costs.json")
