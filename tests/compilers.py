"""The protos as the compilers of other languages take them, with the machine's own tools."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

PROTOS = Path(__file__).parents[1] / "protos"
OURS = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("outrider/v1/*.proto"))
THEIRS = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.glob("google/rpc/*.proto"))
SERVICES = [name for name in OURS if not name.endswith("common.proto")]


def need(*programs: str) -> None:
    """Skip the test where one of these programs is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def need_ruby(library: str) -> None:
    """Skip the test where Ruby or one of its libraries is missing."""
    need("ruby")
    if subprocess.run(["ruby", "-e", f"require '{library}'"], capture_output=True, check=False).returncode:
        pytest.skip(f"{library} for Ruby is not installed")


def protoc(*arguments: str, files: Sequence[str] = (*THEIRS, *OURS)) -> None:
    """Run the compiler of the machine with our include path and no other."""
    check("protoc", "-I", str(PROTOS), *arguments, *files)


def services(plugin: str, folder: Path) -> None:
    """Have a plugin of gRPC write the code of the services into a folder."""
    protoc(f"--plugin=protoc-gen-grpc={shutil.which(plugin)}", f"--grpc_out={folder}", files=SERVICES)


def check(*command: str, folder: Path | None = None, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a command that has to succeed; return what it said."""
    finished = subprocess.run(
        command, cwd=folder, env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished
