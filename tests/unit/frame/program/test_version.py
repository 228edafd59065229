"""A source tree that was never installed: no metadata of any package of it can be found."""

import subprocess
import sys
from importlib.metadata import version

from services.frame.program.version import VERSION, version_of

# What importlib.metadata does where a package is on the path and its metadata is not.
UNINSTALLED = """
import importlib.metadata

def find(name):
    raise importlib.metadata.PackageNotFoundError(name)

importlib.metadata.Distribution.from_name = find
"""


def run(program: str) -> str:
    """Run a program that finds no metadata; return what it prints."""
    done = subprocess.run([sys.executable, "-c", UNINSTALLED + program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_version_is_that_of_the_installation() -> None:
    assert version("outrider") == VERSION
    assert version_of("grpcio") == version("grpcio")


def test_without_metadata_it_is_unknown() -> None:
    assert version_of("no-such-distribution") == "unknown"
    assert run("from services.frame.program.version import VERSION; print(VERSION)") == "unknown\n"


def test_the_command_line_says_so() -> None:
    assert run("import sys; sys.argv[1:] = ['--version']; from orchestrator.cli.commands import main; main()") == (
        "outrider unknown\n"
    )


def test_services_start_without_metadata() -> None:
    run("import services.target.application, services.draft.application, orchestrator.application")
