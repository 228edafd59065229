"""`outrider bench` from its command line to its files: measured to the end, interrupted, and killed."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.programs import command, environment, run
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.e2e

SHORT = ("--settings", "2", "--tokens", "8", "--context", "384", "--threads", "1")
LONG = ("bench", *SHORT, "--streams", "1", "--rounds", "1000000", "--budget", "0", "--out", "long")


def test_a_short_bench_answers_in_one_sentence_with_tables_and_files(home: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("def main(arguments):\n%%\nclass Queue:\n")
    flags = (
        "--settings",
        "2,auto",
        "--streams",
        "1,2",
        "--rounds",
        "1",
        "--prompts",
        str(tmp_path / "mine.txt"),
        "--json",
    )
    finished = run(home, "bench", *SHORT, *flags, folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)
    assert told["answer"].endswith(".")
    assert {(each["setting"], each["num_streams"]) for each in told["cases"]} == {
        (setting, num) for setting in ("plain", "plain again", "2", "auto") for num in (1, 2)
    }
    kept = json.loads((tmp_path / "outrider-bench.json").read_text())
    assert len(kept["runs"]) == 2 * 2 * 4
    assert kept["failures"] == []
    assert kept["about"]["models"]["draft"]["name"]
    assert kept["about"]["options"]["prompts"] == ["mine.txt"], "results say nothing of who measured"
    traced = {(each["setting"], each["num_streams"]) for each in kept["anatomies"]}
    assert traced >= {(setting, num) for setting in ("plain", "auto") for num in (1, 2)}
    assert kept["reliability"]["num_tried"] > 0
    assert told["reliability"] == kept["reliability"]
    for run_ in kept["runs"]:
        assert set(run_["memory_bytes"]) == {"target", "draft", "orchestrator"}
        assert run_["passes_per_token"] == 1.0 or run_["setting"] in ("2", "auto")
        assert run_["wire_ms_per_cycle"] > 0
        assert len(run_["accepted_per_position"]) <= 2 or run_["setting"] == "auto"
    assert (tmp_path / "outrider-bench.spans.jsonl").stat().st_size > 0
    sentence, _, tables = (tmp_path / "outrider-bench.md").read_text().partition("\n\n")
    assert sentence == told["answer"]
    assert tables.startswith("| streams | system |")
    assert "| drafter | chance | tokens tried |" in tables


@contextmanager
def measuring(home: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A bench without an end that has kept a run."""
    process = subprocess.Popen(
        command(*LONG), cwd=folder, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        eventually(lambda: _runs(folder) or process.poll() is not None, 2 * PATIENCE_S)
        yield process
    finally:
        process.kill()
        process.communicate()


def _runs(folder: Path) -> list[dict[str, Any]]:
    path = folder / "long.json"
    return list(json.loads(path.read_text())["runs"]) if path.exists() else []


def test_ctrl_c_ends_with_what_was_measured(home: Path, tmp_path: Path) -> None:
    with measuring(home, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130, stderr
    assert "| 1 | outrider |" in stdout.decode()
    assert "Traceback" not in stderr.decode()
    assert json.loads((tmp_path / "long.json").read_text())["summary"]["cases"]


def test_a_killed_bench_keeps_what_it_had(home: Path, tmp_path: Path) -> None:
    with measuring(home, tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)
    assert _runs(tmp_path)


def test_a_peer_that_fails_costs_its_own_rows(home: Path, tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    arguments = [*SHORT, "--streams", "1", "--rounds", "0", "--no-anatomy", "--peer-llama-server", str(program)]
    finished = run(home, "bench", *arguments, "--json", folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert {each["system"] for each in json.loads(finished.stdout)["cases"]} == {"outrider"}
    (failure,) = json.loads((tmp_path / "outrider-bench.json").read_text())["failures"]
    assert failure == {"system": "llama-server", "error": "llama-server ended with code 1"}
