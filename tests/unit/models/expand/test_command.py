"""The command: where it writes, what it keeps in the cache, and bad input in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from models.command import CommandError
from models.expand.__main__ import main
from models.llama_gguf import LlamaFile
from tests.unit.models.expand.expanding import SIZES


def test_the_model_itself_is_never_replaced(model: Path) -> None:
    before = model.read_bytes()

    with pytest.raises(CommandError, match="choose another output"):
        main([str(model), "--dim", "64", "--layers", "2", "--ffn", "128", "--output", str(model), "--force"])
    assert model.read_bytes() == before


def test_an_existing_output_is_replaced_only_by_force(tmp_path: Path, model: Path) -> None:
    output = tmp_path / "large.gguf"
    output.write_bytes(b"mine")

    with pytest.raises(CommandError, match="exists already"):
        main([str(model), *SIZES, "--output", str(output)])
    assert output.read_bytes() == b"mine"
    main([str(model), *SIZES, "--output", str(output), "--force"])
    assert LlamaFile(output).config.dim == 160


def test_a_user_without_a_home_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_000)
    with pytest.raises(CommandError, match=r"^there is no home folder to keep files in: "):
        main([str(model), *SIZES])


def test_the_cache_holds_one_file_per_model_shape_and_type(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda application: tmp_path / application)
    for arguments in (SIZES, SIZES, [*SIZES, "--type", "F16"], [*SIZES, "--seed", "3"]):
        main([str(model), *arguments])
    printed = capsys.readouterr()

    paths = [Path(line) for line in printed.out.splitlines()]
    assert paths[0] == paths[1]
    assert set(paths) == set((tmp_path / "outrider" / "models").iterdir())
    assert len(set(paths)) == 3
    assert printed.err.count("exists already") == 1


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:-40], lambda whole: b"text" * 100])
def test_a_damaged_file_in_the_cache_is_made_anew(
    tmp_path: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[bytes], bytes],
) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda application: tmp_path / application)
    main([str(model), *SIZES])
    path = Path(capsys.readouterr().out.strip())
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    main([str(model), *SIZES])
    warning, *others = capsys.readouterr().err.splitlines()
    assert str(path) in warning and warning.endswith("making it anew")
    assert not others
    assert path.read_bytes() == whole


def test_without_a_home_a_place_is_asked_for(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda application: Path("~/.cache") / application)
    with pytest.raises(CommandError, match="there is no home folder to keep files in: set XDG_CACHE_HOME"):
        main([str(model), *SIZES])
    assert not Path("~").exists()


BAD_ARGUMENTS = {
    "no model": ([], "MODEL"),
    "no sizes": (["MODEL"], "--dim and --layers and --ffn must be given"),
    "unknown preset": (["MODEL", "--preset", "2b"], "--preset"),
    "zero": (["MODEL", "--dim", "0"], "at least 1"),
    "no number": (["MODEL", "--dim", "x"], "--dim"),
    "missing model": (["absent.gguf", *SIZES], "absent.gguf"),
    "missing folder": (["MODEL", *SIZES, "--output", "absent/large.gguf"], "no folder absent"),
    "folder": (["MODEL", *SIZES, "--output", "."], "is a folder"),
    "corrupt model": (["corrupt.gguf", *SIZES], "not a valid GGUF"),
    "smaller": (["MODEL", "--dim", "32", "--layers", "2", "--ffn", "128"], "below"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_input_is_one_sentence(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    arguments, message = BAD_ARGUMENTS[case]
    (tmp_path / "corrupt.gguf").write_bytes(model.read_bytes()[:3000])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda application: tmp_path / application)

    with pytest.raises(CommandError) as raised:
        main([str(model) if argument == "MODEL" else argument for argument in arguments])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["corrupt.gguf"]
