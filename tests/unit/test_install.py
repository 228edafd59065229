"""`tools/install.py`: what is seen of pip, and what is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S
from tools import install

ROOT = Path(__file__).parents[2]
# A pip of our own.
PIP = """
import sys
for index in range(400):
    print(f"  a long line {index}")
print("Collecting numpy (from outrider)")
print(" ".join(sys.argv[1:]))
sys.exit({code})
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    return tmp_path


def run(folder: Path, code: int) -> "subprocess.CompletedProcess[str]":
    (folder / "pip" / "__main__.py").write_text(PIP.replace("{code}", str(code)))
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "install.py"), "install.log", "--editable", "."],
        cwd=folder,
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_what_pip_says_is_in_the_log_alone(folder: Path) -> None:
    finished = run(folder, 0)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    told = (folder / "install.log").read_text().splitlines()
    assert len(told) == 402
    assert told[-1].startswith("install ") and told[-1].endswith(" --editable .")


def test_where_pip_fails_the_end_of_it_is_shown(folder: Path) -> None:
    finished = run(folder, 3)
    assert finished.returncode == 3
    *shown, last = finished.stderr.splitlines()
    assert (len(shown), shown[0]) == (install.SHOWN, "  a long line 372")
    assert last == "pip has failed; install.log holds all that it said"


@pytest.mark.parametrize(
    ("line", "stage"),
    [
        ("Collecting numpy>=2 (from outrider)", "Collecting numpy>=2"),
        ("  Building wheel for llama-cpp-python (pyproject.toml): started", "Building wheel for llama-cpp-python"),
        ("Installing collected packages: a, b, c", "Installing collected packages"),
        ("  Using cached numpy.whl", "starting pip"),
    ],
)
def test_what_is_shown_says_where_pip_is(line: str, stage: str) -> None:
    progress = install.Progress()
    progress.note(line)
    progress.close()
    assert progress.stage == stage
