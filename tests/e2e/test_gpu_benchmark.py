"""benchmarks/gpu as a whole, on the CPU with tiny models: on the day there is a GPU it has to run at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from models.tiny import write_tiny_pair
from orchestrator.costs import load_costs
from tests.e2e.programs import ROOT, environment

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# More than it takes.
LIMIT_S = 250
FLAGS = (
    "costs=--slots 1 --context 64 --threads 1",
    "bench=--streams 1 --settings plain,1 --tokens 8 --rounds 0 --context 512 --threads 1 --prompts functions",
    "exactness=--schedules 1 --threads 1",
    "exactness-short=--schedules 1 --threads 1",
)


def test_all_parts_run_on_the_cpu_and_leave_their_results(home: Path, tmp_path: Path) -> None:
    target, draft = write_tiny_pair(tmp_path, context_length=512)
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "benchmarks/gpu/run.py"), "--out", str(out), "--flags", *FLAGS]
    finished = subprocess.run(
        [*command, "--target", str(target), "--draft", str(draft)],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    logs = "\n".join(f"{log.name}: {log.read_text()}" for log in out.glob("*.log"))
    assert finished.returncode == 0, f"{finished.stdout}{finished.stderr}{logs}"
    names = ["costs", "bench", "exactness", "exactness-short"]
    assert [each["name"] for each in json.loads((out / "parts.json").read_text())] == names
    assert load_costs(out / "costs.json").draft is not None
    assert json.loads((out / "bench.json").read_text())["runs"]
    for name in names[2:]:
        # No way, 4 by row multiples and 2 by constant rows; each with flash attention and without.
        lines = [json.loads(line) for line in (out / f"{name}.log").read_text().splitlines()]
        assert len(lines) == 2 * (1 + 4 + 2)
        assert all(line["rows"] > 0 for line in lines)
