"""The command lines of the clients in `examples/`, installed or compiled where that is needed."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.examples.running import PYTHON
from tests.e2e.programs import ROOT
from tests.npm import install_packages
from tests.workers import made_once

OLDEST_NODE = 18


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """The command line of the Node.js client, installed in a copy of the project's folders."""

    def install(root: Path) -> None:
        folder = root / "examples" / "node"
        shutil.copytree(ROOT / "examples" / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
        (root / "protos").symlink_to(ROOT / "protos")
        install_packages(folder, OLDEST_NODE)
        assert not (folder / "package-lock.json").exists(), "it would record where the packages came from"

    return ("node", str(made_once(tmp_path_factory, "node", install) / "examples" / "node" / "generate.js"))


@pytest.fixture(params=["python", "node"])
def client(request: pytest.FixtureRequest) -> Sequence[str]:
    """The command line of each client of the orchestrator."""
    command: Sequence[str] = PYTHON if request.param == "python" else request.getfixturevalue("node")
    return command


@pytest.fixture(scope="session", params=["cpp", "go"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    """The command line of each client that is compiled, made with the machine's tools in a copy of its folder."""
    needed = {"cpp": ("make", "g++", "pkg-config", "protoc", "grpc_cpp_plugin")}
    needed["go"] = ("make", "go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
    for program in needed[request.param]:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if request.param == "cpp" and subprocess.run(["pkg-config", "--exists", "grpc++"], check=False).returncode:
        pytest.skip("the headers of gRPC are not installed")
    gopath = Path("/usr/share/gocode")
    packages = ("grpc", "protobuf")
    if request.param == "go" and not all((gopath / "src/google.golang.org" / name).exists() for name in packages):
        pytest.skip("gRPC for Go is not installed")
    # Debian 12's gRPC 1.33 takes it, which panics at messages of the other API: it compiles, and cannot send one.
    if request.param == "go" and (gopath / "src/github.com/golang/protobuf/proto/table_marshal.go").exists():
        pytest.skip("gRPC for Go uses a protobuf before 1.4, which knows no code that is generated today")

    def compile_client(root: Path) -> None:
        # Where Go looks for a package `outrider` that is no module.
        folder = root / "src" / "outrider"
        shutil.copytree(ROOT / "examples" / request.param, folder)
        variables = {"GO111MODULE": "off", "GOPATH": f"{root}:{gopath}", "GOCACHE": str(root / "cache"), "GOFLAGS": ""}
        made = subprocess.run(
            ["make", "-C", str(folder), f"PROTOS={ROOT / 'protos'}"],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr

    root = made_once(tmp_path_factory, f"compiled-{request.param}", compile_client)
    return (str(root / "src" / "outrider" / "generate"),)
