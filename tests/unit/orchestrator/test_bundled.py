"""Which pair is used where none is named."""

from pathlib import Path

import pytest

from orchestrator import bundled


def write_pair(folder: Path) -> tuple[Path, Path]:
    folder.mkdir(parents=True)
    pair = folder / "target.gguf", folder / "draft.gguf"
    for path in pair:
        path.write_bytes(b"GGUF")
    return pair


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with an empty models folder, and a cache of its own."""
    monkeypatch.setattr(bundled, "_models_folder", lambda: tmp_path / "checkout" / "models")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "checkout"


def test_the_bundled_pair_comes_first(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = write_pair(checkout / "models" / "pair")
    write_pair(checkout.parent / "shared" / "lab-pair")
    assert bundled.bundled_pair() == pair
    assert capsys.readouterr().err == ""


def test_then_a_pair_beside_the_checkout_which_is_told(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = write_pair(checkout.parent / "shared" / "lab-pair")
    assert bundled.bundled_pair() == pair
    assert "no pair is bundled yet" in capsys.readouterr().err


def test_half_a_pair_is_none(checkout: Path) -> None:
    _, draft = write_pair(checkout / "models" / "pair")
    draft.unlink()
    pair = write_pair(checkout.parent / "shared" / "lab-pair")
    assert bundled.bundled_pair() == pair


def test_else_a_random_pair_that_is_written_once(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, draft = bundled.bundled_pair()
    written = target.stat().st_mtime_ns
    assert draft.read_bytes()[:4] == b"GGUF"
    assert bundled.bundled_pair() == (target, draft)
    assert target.stat().st_mtime_ns == written
    assert "random" in capsys.readouterr().err
