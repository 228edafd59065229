"""What is found out once is known to the next start; a file that cannot be used costs a warning and nothing else."""

import errno
import fcntl
import json
import os
import pwd
import threading
from collections.abc import Callable
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn

import platformdirs
import pytest

from services.frame.program import remembered
from services.frame.program.remembered import Remembered
from tests.waiting import PATIENCE_S

NAME = "found.json"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the file, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "outrider"


def findings() -> Remembered[bool | None]:
    return Remembered(NAME, (bool, NoneType))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def works(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Use a file as a start does; return what was warned of."""
    kept = findings()
    assert "first" not in kept
    for key, value in (("first", True), ("second", None), ("third", False)):
        kept.keep(key, value)
        assert key in kept
        assert kept.get(key) is value
    return warnings(caplog)


def test_what_is_kept_is_known_to_the_next_start(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert works(caplog) == []
    again = findings()
    assert [again.get(key) for key in ("first", "second", "third", "fourth")] == [True, None, False, None]
    assert "second" in again
    assert "fourth" not in again


CONTENTS = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "half a file": b'{"first": tr',
    "no text": b"\xff\xfe\x00\xd8",
    "deep": b"[" * 100_000,
    "another version": b'{"version": 7, "found": {"first": true}}',
    "values of another type": b'{"first": "yes", "old": [1], "older": 1}',
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_content_that_is_not_ours_is_replaced(folder: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(content)
    (sentence,) = works(caplog)
    assert str(folder / NAME) in sentence
    assert json.loads((folder / NAME).read_bytes()) == {"first": True, "second": None, "third": False}


@pytest.mark.parametrize("name", [NAME, "found.lock"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(parents=True)
    os.mkfifo(folder / name)
    (sentence,) = works(caplog)
    assert str(folder / NAME) in sentence


def test_entries_that_are_right_outlive_wrong_ones(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / NAME).write_text('{"wrong": 1, "right": true}')
    findings().keep("new", False)
    assert json.loads((folder / NAME).read_text()) == {"right": True, "new": False}


def file_for_folder(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")


def file_for_cache(folder: Path) -> None:
    folder.parent.write_text("a file")


def folder_for_file(folder: Path) -> None:
    (folder / NAME).mkdir(parents=True)


@pytest.mark.parametrize("obstruct", [file_for_folder, file_for_cache, folder_for_file])
def test_a_place_that_is_taken(
    folder: Path, obstruct: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    obstruct(folder)
    (sentence,) = works(caplog)
    assert str(folder / NAME) in sentence
    assert "set XDG_CACHE_HOME" in sentence


@pytest.mark.parametrize(
    ("method", "code"),
    [
        pytest.param("mkdir", errno.EROFS, id="read-only file system"),
        pytest.param("open", errno.EACCES, id="no rights"),
        pytest.param("write_text", errno.ENOSPC, id="disk full"),
        pytest.param("replace", errno.EIO, id="broken disk"),
    ],
)
def test_a_file_that_cannot_be_written(
    folder: Path, method: str, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    findings().keep("old", True)
    as_it_was = (folder / NAME).read_bytes()

    def fail(*arguments: Any, **options: Any) -> NoReturn:
        raise OSError(code, "told to fail")

    monkeypatch.setattr(Path, method, fail)
    (sentence,) = works(caplog)
    monkeypatch.undo()
    assert str(folder / NAME) in sentence
    assert "told to fail" in sentence
    assert (folder / NAME).read_bytes() == as_it_was
    assert not list(folder.glob("*.part"))


def no_entry(user: int) -> NoReturn:
    raise KeyError(user)


@pytest.mark.parametrize("answer", ["refusal", "relative path"])
def test_a_user_without_a_home(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The library refuses, or earlier versions of it answer with a path below the folder that one is in."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    if answer == "relative path":
        monkeypatch.setattr(remembered, "user_cache_path", lambda name: Path("~/.cache") / name)
    else:
        with pytest.raises(RuntimeError):
            platformdirs.user_cache_path("outrider")
    (sentence,) = works(caplog)
    assert f"~/.cache/outrider/{NAME}" in sentence
    assert "set XDG_CACHE_HOME" in sentence
    assert not list(tmp_path.iterdir())


def test_two_starts_at_once_lose_nothing_of_each_other(folder: Path) -> None:
    one, other = findings(), findings()
    # Both have read the file before either writes it.
    assert "one" not in one
    assert "other" not in other
    one.keep("one", True)
    other.keep("other", False)
    assert json.loads((folder / NAME).read_text()) == {"one": True, "other": False}


def test_many_writers_take_turns(folder: Path) -> None:
    barrier = threading.Barrier(8)

    def keep(writer: int) -> None:
        kept = findings()
        barrier.wait(PATIENCE_S)
        for number in range(20):
            kept.keep(f"{writer} {number}", True)

    threads = [threading.Thread(target=keep, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(json.loads((folder / NAME).read_text())) == 8 * 20


def test_a_lock_that_is_never_let_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remembered, "_LOCK_PATIENCE_S", 0.0)
    folder.mkdir(parents=True)
    with (folder / NAME).with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        (sentence,) = works(caplog)
    assert "is locked" in sentence


def test_a_file_that_is_not_needed_is_not_looked_at(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    file_for_folder(folder)
    findings()
    assert warnings(caplog) == []
