"""Nothing is left of an expansion that is interrupted or fails."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from models.expand.expansion import Expansion
from models.expand.shape import ExpansionError
from tests.unit.models.expand.expanding import BLOCK_SHAPE, SHAPE, SIZES, ignore_progress

ROOT = Path(__file__).resolve().parents[4]


def interrupt(_task: str, share: float) -> None:
    if share > 0.5:
        raise KeyboardInterrupt


@pytest.mark.parametrize("file_type", ["F32", "Q4_K_M"])
def test_an_interruption_leaves_nothing(tmp_path: Path, model: Path, file_type: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        Expansion.plan(model, BLOCK_SHAPE, file_type).write(tmp_path / "large.gguf", interrupt)

    assert list(tmp_path.iterdir()) == []


def test_a_failing_quantization_leaves_nothing(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expansion = Expansion.plan(model, BLOCK_SHAPE, "Q4_K_M")
    monkeypatch.setattr(sys, "executable", shutil.which("false"))

    with pytest.raises(ExpansionError, match=r"llama\.cpp could not make Q4_K_M"):
        expansion.write(tmp_path / "large.gguf", ignore_progress)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_too_full_is_seen_before_writing(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage(10**6, 10**6, 1000))

    with pytest.raises(ExpansionError, match="the disk is too full"):
        Expansion.plan(model, SHAPE, "F32").write(tmp_path / "large.gguf", ignore_progress)
    assert list(tmp_path.iterdir()) == []


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "models.expand", *arguments]


def test_the_process_ends_with_2_and_one_line(tmp_path: Path) -> None:
    ended = subprocess.run(
        command(str(tmp_path / "absent.gguf"), "--preset", "1b"), check=False, cwd=ROOT, capture_output=True, text=True
    )

    assert ended.returncode == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert "Traceback" not in ended.stderr


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, model: Path) -> None:
    arguments = command(str(model), *SIZES, "--output", str(tmp_path / "large.gguf"))
    limited = ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh", *arguments]
    ended = subprocess.run(limited, check=False, cwd=ROOT, capture_output=True, text=True)

    assert ended.returncode == 2
    assert "cannot write" in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(tmp_path: Path, model: Path, number: signal.Signals) -> None:
    arguments = command(str(model), "--preset", "1b", "--output", str(tmp_path / "large.gguf"))
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not any(path.stat().st_size for path in tmp_path.iterdir()):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, complaint = process.communicate()

    assert process.returncode == 128 + number
    assert complaint.count("\n") == 1 and "nothing was written" in complaint
    assert list(tmp_path.iterdir()) == []
