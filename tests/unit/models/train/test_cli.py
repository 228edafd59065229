"""The command line of the training steps: bad input ends with one sentence and exit code 2."""

from __future__ import annotations

import subprocess
from pathlib import Path

import platformdirs
import pytest

from models.train import cli


@pytest.mark.parametrize("arguments", [[], ["fly"], ["target", "--minutes", "0"], ["target", "--minutes", "soon"]])
def test_bad_arguments_end_with_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_missing_earlier_step_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tokenizer", "--work-dir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "manifest.json is missing" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("content", ["", "[{", '{"a": 1}', '[{"path": 1}]', "[1]"])
def test_a_manifest_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "manifest.json").write_text(content)
    assert cli.main(["tokenizer", "--work-dir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "manifest.json is no manifest" in message and "python -m models.train corpus" in message
    assert message.count("\n") == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["tokenizer", "--work-dir", str(tmp_path / "file" / "work")]) == 2
    assert capsys.readouterr().err.startswith("python -m models.train: cannot read or write: ")


def test_packages_that_pip_does_not_get(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", fail)
    assert cli.main(["corpus", "--work-dir", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err
        == "python -m models.train: pip could not install the packages of the corpus: it ended with 1\n"
    )


def test_without_a_home(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda application: Path("~/.cache") / application)
    assert cli.main(["tokenizer"]) == 2
    assert "set XDG_CACHE_HOME" in capsys.readouterr().err


def test_a_missing_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_torch(name: str) -> None:
        raise ModuleNotFoundError(f"No module named 'torch' for {name}", name="torch")

    monkeypatch.setattr(cli, "import_module", no_torch)
    assert cli.main(["target", "--work-dir", str(tmp_path)]) == 2
    assert "torch is not installed: pip install 'outrider[train]'" in capsys.readouterr().err
