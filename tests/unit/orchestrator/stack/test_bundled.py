"""Which pair is used where none is named."""

from pathlib import Path

import pytest

from orchestrator.stack.bundled import bundled_pair
from services.frame.program.startup import StartupError


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pair's folder of an installation that holds no file yet."""
    folder = tmp_path / "models" / "pair"
    folder.mkdir(parents=True)
    monkeypatch.setattr("orchestrator.stack.bundled.find_spec", lambda _: Spec([str(tmp_path / "models")]))
    return folder


class Spec:
    """As much of a ModuleSpec as is looked at."""

    def __init__(self, locations: list[str]) -> None:
        self.submodule_search_locations = locations


def test_the_pair_lies_beside_the_package() -> None:
    target, draft = bundled_pair()
    assert target.parent == draft.parent == Path(__file__).parents[4] / "models" / "pair"


@pytest.mark.parametrize("present", [[], ["target.gguf"], ["draft.gguf"]])
def test_half_a_pair_is_none(elsewhere: Path, present: list[str]) -> None:
    for name in present:
        (elsewhere / name).write_bytes(b"GGUF")
    with pytest.raises(StartupError, match="--target and --draft"):
        bundled_pair()


def test_an_installation_without_the_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.stack.bundled.find_spec", lambda _: None)
    with pytest.raises(StartupError, match="--target and --draft"):
        bundled_pair()
