"""Which pair is used where none is named."""

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from orchestrator import bundled
from services.frame.startup import StartupError


@pytest.fixture
def pair_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the pair of an installed package `models`, still empty."""
    spec = ModuleSpec("models", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(bundled, "find_spec", lambda name: spec)
    folder = tmp_path / "pair"
    folder.mkdir()
    return folder


def test_the_pair_lies_in_the_package_of_models(pair_folder: Path) -> None:
    pair = pair_folder / "target.gguf", pair_folder / "draft.gguf"
    for path in pair:
        path.write_bytes(b"GGUF")
    assert bundled.bundled_pair() == pair


def test_half_a_pair_is_none(pair_folder: Path) -> None:
    (pair_folder / "target.gguf").write_bytes(b"GGUF")
    with pytest.raises(StartupError, match="name models with --target and --draft"):
        bundled.bundled_pair()


def test_without_the_package_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "find_spec", lambda name: None)
    with pytest.raises(StartupError, match="no model pair is installed"):
        bundled.bundled_pair()
