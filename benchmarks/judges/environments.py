"""Where a judge runs: packages of pinned versions in a folder of their own, and a runner of checks that reports."""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

# An installation takes minutes where the packages are large.
_INSTALL_LIMIT_S = 1800.0


class Environment(Protocol):
    """Packages in a folder."""

    folder: Path

    def run(self, checks: Path, report: Path, variables: Mapping[str, str], limit_s: float) -> str:
        """Run checks with variables in their environment; return all they said. Raises SubprocessError and OSError."""

    def version(self, package: str) -> str:
        """Return which version of a package is there."""


class PythonEnvironment:
    """Made by venv and pip. Its checks are run by pytest."""

    def __init__(self, folder: Path, constraints: Path, packages: Sequence[str]) -> None:
        """Raises SubprocessError and OSError."""
        self.folder = folder
        self._python = folder / "bin/python"
        done = folder / "installed"
        if not done.exists():
            venv.create(folder, with_pip=True)
            pip = (self._python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
            command = (*pip, "--constraint", constraints, *packages)
            subprocess.run(command, check=True, timeout=_INSTALL_LIMIT_S, stdout=sys.stderr)
            done.touch()

    def run(self, checks: Path, report: Path, variables: Mapping[str, str], limit_s: float) -> str:
        """Run checks."""
        options = (f"--config-file={checks.parent / 'pytest.ini'}", f"--junit-xml={report}", "--tb=short")
        command = (self._python, "-m", "pytest", "-p", "no:cacheprovider", *options, checks)
        return _said(command, limit_s, self.folder, variables)

    def version(self, package: str) -> str:
        """Return which version of a package is there."""
        asked = f"import importlib.metadata as m; print(m.version({package!r}))"
        return subprocess.run((self._python, "-c", asked), check=True, capture_output=True, text=True).stdout.strip()


class NodeEnvironment:
    """Made by npm. Its checks are run by Node.js's own runner, within the folder: packages are looked for there."""

    def __init__(self, folder: Path, package_file: Path) -> None:
        """Raises SubprocessError and OSError."""
        self.folder = folder
        done = folder / "installed"
        if not done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(package_file, folder)
            command = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts")
            subprocess.run(command, cwd=folder, check=True, timeout=_INSTALL_LIMIT_S, stdout=sys.stderr)
            done.touch()

    def run(self, checks: Path, report: Path, variables: Mapping[str, str], limit_s: float) -> str:
        """Run checks."""
        copied = shutil.copy(checks, self.folder)
        reporter = ("--test-reporter=junit", f"--test-reporter-destination={report}")
        return _said(("node", "--test", *reporter, copied), limit_s, self.folder, variables)

    def version(self, package: str) -> str:
        """Return which version of a package is there."""
        told = json.loads((self.folder / "node_modules" / package / "package.json").read_text())
        return str(told["version"])


def _said(command: Sequence[str | Path], limit_s: float, folder: Path, variables: Mapping[str, str]) -> str:
    # What our own code is found by must not come into it.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OUTRIDER_"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env=kept | dict(variables),
        timeout=limit_s,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout
