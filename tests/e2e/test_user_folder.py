"""Our programs in a folder whose files are called like modules of ours and of the standard library."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.e2e.programs import ROOT, environment, run
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPTS: dict[str, str] = PROJECT["project"]["scripts"]
PACKAGES = {package.partition(".")[0] for package in PROJECT["tool"]["setuptools"]["packages"]}
WRONG = 'raise SystemExit("a file of the user was run")\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user's folder. What is called `services` is a package, as are ours."""
    for name in (PACKAGES | {"json", "logging", "types", "typing"}) - {"services"}:
        (tmp_path / f"{name}.py").write_text(WRONG)
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "__init__.py").write_text(WRONG)
    return tmp_path


def test_there_is_a_script_for_every_program() -> None:
    assert set(SCRIPTS) == {"outrider", "outrider-draft", "outrider-orchestrator", "outrider-target"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_run_our_own_code(folder: Path, tmp_path: Path, name: str) -> None:
    """As an installed script does: the folder of the script comes first on its path, not the current one."""
    module, _, function = SCRIPTS[name].partition(":")
    finished = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys; from {module} import {function}; sys.exit({function}())", "--help"],
        cwd=folder,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert f"usage: {name}" in finished.stdout.lower()


def test_the_processes_that_a_command_starts_run_our_own_code(folder: Path, home: Path) -> None:
    finished = run(home, "generate", "--exact", "off", "--max-tokens", "4", "def main(", folder=folder)
    assert "a file of the user" not in finished.stderr
    assert finished.returncode == 0
    assert finished.stdout.startswith("def main(")
