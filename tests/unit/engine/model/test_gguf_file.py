"""Models in several files, and what is no file."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from services.engine.errors import ModelLoadError
from services.engine.model.gguf_file import GgufFile
from tests.unit.engine.model.gguf_bytes import FIELDS, TENSORS, Typed, Value, gguf_bytes


def _parts(folder: Path, second: Mapping[str, Value], count: int = 2) -> Path:
    """The usual model in two files, whose second one says this."""
    names = list(TENSORS)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    split: dict[str, Value] = {
        "split.no": Typed(2, 0),
        "split.count": Typed(2, count),
        "split.tensors.count": Typed(5, len(names)),
    }
    paths = [folder / f"model-{number:05d}-of-{count:05d}.gguf" for number in (1, 2)]
    for path, fields, half in zip(paths, (FIELDS | split, second), halves, strict=True):
        path.write_bytes(gguf_bytes(fields, {name: TENSORS[name] for name in half}))
    return paths[0]


def test_a_model_in_parts(tmp_path: Path) -> None:
    path = _parts(tmp_path, {"split.no": Typed(2, 1)})
    with GgufFile(path) as file:
        assert [part.name[6:11] for part in file.parts()] == ["00001", "00002"]
        assert list(file.tensors) == list(TENSORS)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ({}, r"split.no is \[\]: it must be 1"),
        ({"split.no": Typed(2, 2)}, r"split.no is \[2\]: it must be 1"),
        ({"split.no": 1}, r"split.no is \[1\]: it must be 1"),
    ],
    ids=["none", "another", "of another type"],
)
def test_a_part_that_is_another(tmp_path: Path, second: Mapping[str, Value], expected: str) -> None:
    with pytest.raises(ModelLoadError, match=expected):
        GgufFile(_parts(tmp_path, second))


@pytest.mark.parametrize("count", [Typed(5, -1), 2**32 - 1, Typed(10, 2**64 - 1)])
def test_more_parts_than_there_can_be(tmp_path: Path, count: Value) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(FIELDS | {"split.count": count}))
    with pytest.raises(ModelLoadError, match=r"split.count is -?[0-9]+: it must be 1 to 65535"):
        GgufFile(path)


def test_tensors_that_the_parts_lack(tmp_path: Path) -> None:
    path = _parts(tmp_path, {"split.no": Typed(2, 1)})
    data = path.read_bytes()
    at = data.index(b"split.tensors.count") + len(b"split.tensors.count") + 4
    path.write_bytes(data[:at] + b"\x07" + data[at + 1 :])
    with pytest.raises(ModelLoadError, match=r"split.tensors.count is 7: the parts have 20 tensors"):
        GgufFile(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    """Whoever opened it would wait for ever."""
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(ModelLoadError, match="it is not a file"):
        GgufFile(tmp_path / "model.gguf")
