"""Programs in an environment that lacks what they need: a sentence that says what to install, no traceback."""

import os
from pathlib import Path

import pytest

from tests.e2e.programs import MODULES, ROOT, Finished, run

pytestmark = pytest.mark.e2e

PROGRAMS = ["orchestrator.cli", *MODULES.values(), "services.frame.healthcheck"]
SCRIPTS = ["models.evaluate", "models.expand"]
# An environment in which a module cannot be imported.
BROKEN = """
import sys

class Finder:
    def find_spec(self, name, *_):
        if name == {name!r}:
            raise {error}

sys.meta_path.insert(0, Finder())
"""


def _run_without(folder: Path, module: str, name: str, error: str) -> Finished:
    """Run a program where importing `name` raises `error`."""
    (folder / "sitecustomize.py").write_text(BROKEN.format(name=name, error=error))
    path = os.pathsep.join((str(folder), str(ROOT), str(ROOT / "protos")))
    return run(folder, "--help", module=module, PYTHONPATH=path)


@pytest.mark.parametrize("module", PROGRAMS)
def test_a_source_tree_whose_stubs_are_not_on_the_path(tmp_path: Path, module: str) -> None:
    missing = "ModuleNotFoundError(\"No module named 'outrider'\", name='outrider')"
    finished = _run_without(tmp_path, module, "outrider", missing)
    if module == "services.frame.healthcheck":  # it does without them
        assert finished.returncode == 0
        return
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == (
        "outrider: there is no module outrider: pip install 'outrider[engine]', or '.[engine]' in a source tree\n"
    )


@pytest.mark.parametrize("module", [*PROGRAMS, *SCRIPTS])
def test_a_library_that_is_not_installed(tmp_path: Path, module: str) -> None:
    name = "numpy" if module in SCRIPTS else "grpc"
    missing = f"ModuleNotFoundError(\"No module named '{name}'\", name='{name}')"
    finished = _run_without(tmp_path, module, name, missing)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert f"there is no module {name}: pip install" in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_a_llama_cpp_that_the_system_cannot_load(tmp_path: Path) -> None:
    told = "Failed to load shared library 'libllama.so': libgomp.so.1: cannot open shared object file"
    finished = _run_without(tmp_path, "services.target", "llama_cpp", f'RuntimeError("{told}")')
    assert (finished.returncode, finished.stdout, finished.stderr) == (2, "", f"outrider: {told}\n")
