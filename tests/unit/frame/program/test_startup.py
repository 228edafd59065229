import pytest

from services.frame.program.startup import StartupError, refuse


def test_a_refusal_is_one_line_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        refuse(StartupError("the model is\n  missing"), "outrider-target")
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.err == "outrider-target: the model is missing\n"
    assert output.out == ""


def test_a_refusal_says_names_as_they_are_and_obeys_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        refuse("there is no file my  models/\x1b[2J\x9b\udcff.gguf")
    assert capsys.readouterr().err == "outrider: there is no file my  models/\\x1b[2J\\x9b\\udcff.gguf\n"
