"""The command line of the training steps: bad input ends with one sentence and exit code 2."""

from __future__ import annotations

from pathlib import Path

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


def test_a_missing_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_torch(name: str) -> None:
        raise ModuleNotFoundError(f"No module named 'torch' for {name}", name="torch")

    monkeypatch.setattr(cli, "import_module", no_torch)
    assert cli.main(["target", "--work-dir", str(tmp_path)]) == 2
    assert "torch is not installed: pip install 'outrider[train]'" in capsys.readouterr().err
