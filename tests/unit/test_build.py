"""What the build files promise: every package ships, every version is pinned, every stub fits its proto."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest

from tools import protos

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMPORT_ROOTS = {"models": ROOT, "orchestrator": ROOT, "services": ROOT, "outrider": ROOT / "protos"}


def test_every_package_is_in_the_wheel() -> None:
    folders = {
        ".".join(path.parent.relative_to(base).parts)
        for name, base in IMPORT_ROOTS.items()
        for path in (base / name).rglob("__init__.py")
    }
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(folders)


def test_every_dependency_is_pinned_and_no_pin_names_an_address() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in pins if re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) is None] == []
    project = PYPROJECT["project"]
    requirements = sum(project["optional-dependencies"].values(), project["dependencies"])
    names = {re.split(r"[<>=!~\[; ]", requirement)[0].lower().replace("_", "-") for requirement in requirements}
    assert names <= {line.partition("==")[0] for line in pins}


@pytest.fixture
def copied_protos(tmp_path: Path) -> Path:
    shutil.copytree(protos.PROTOS / protos.PACKAGE, tmp_path / protos.PACKAGE)
    return tmp_path


def test_the_committed_stubs_are_what_the_protos_give(copied_protos: Path) -> None:
    assert protos.differences(copied_protos) == []


def test_a_stub_that_is_missing_stale_or_nobodys_is_told(copied_protos: Path) -> None:
    package = copied_protos / protos.PACKAGE
    (package / "draft_pb2.pyi").unlink()
    (package / "common_pb2.py").write_text("")
    (package / "former_pb2.py").write_text("")
    assert protos.differences(copied_protos) == [
        "outrider/v1/draft_pb2.pyi is missing",
        "outrider/v1/former_pb2.py belongs to no proto",
        "outrider/v1/common_pb2.py differs from what its proto gives",
    ]
    protos.generate(copied_protos, copied_protos)
    assert protos.differences(copied_protos) == []
    assert not (package / "former_pb2.py").exists()


def test_a_proto_that_does_not_compile_is_told_in_protocs_words(copied_protos: Path) -> None:
    (copied_protos / protos.PACKAGE / "bad.proto").write_text("message {")
    with pytest.raises(protos.ProtoError, match=r"outrider/v1/bad\.proto"):
        protos.differences(copied_protos)
