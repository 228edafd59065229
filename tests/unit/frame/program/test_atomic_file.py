"""A file appears whole or not at all."""

import os
from pathlib import Path

import pytest

from services.frame.program.atomic_file import replacing


def test_what_was_written_takes_the_place(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_everything_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "found.json"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_it_has_the_rights_of_any_new_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "found.json"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "found.json").stat().st_mode & 0o777 == 0o666 & ~umask
