"""Which files the corpus keeps, under which licence, and which are held out."""

from __future__ import annotations

from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

from models.train.corpus import is_wanted_path, is_wanted_text, licence_of, split_of, without_copies

FUNCTION = '''def {name}(values):
    """Return the {name} of some values."""
    total_{name} = 0
    for value in values:
        total_{name} += value * len("{name}")
    return total_{name}
'''


def function(name: str) -> str:
    return FUNCTION.format(name=name)


def distribution(folder: Path, metadata: str) -> Distribution:
    info = folder / "some-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: some\nVersion: 1.0\n{metadata}\n")
    return PathDistribution(info)


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: MIT", "MIT"),
        ("License-Expression: Apache-2.0 OR BSD-2-Clause", "Apache-2.0 OR BSD-2-Clause"),
        ("Classifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("License: ISC", "ISC"),
        ("License-Expression: MPL-2.0 AND MIT", None),
        ("Classifier: License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", None),
        ("License: Proprietary", None),
        ("Summary: says nothing", None),
    ],
)
def test_only_plainly_permissive_licences_are_taken(tmp_path: Path, metadata: str, licence: str | None) -> None:
    assert licence_of(distribution(tmp_path, metadata)) == licence


@pytest.mark.parametrize("path", ["some/core.py", "json/decoder.py", "contest/rules.py"])
def test_sources_are_wanted(path: str) -> None:
    assert is_wanted_path(Path(path))


@pytest.mark.parametrize(
    "path",
    [
        "some/tests/core.py",
        "test/support.py",
        "some/test_core.py",
        "some/core_pb2.py",
        "some/core.pyi",
        "pip/_vendor/rich/table.py",
        "encodings/cp037.py",
        "some/conftest.py",
    ],
)
def test_tests_tables_and_copies_are_not(path: str) -> None:
    assert not is_wanted_path(Path(path))


def test_code_is_wanted_text() -> None:
    assert is_wanted_text(function("mean") + function("sum"))


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n",
        function("mean") + "def broken(:\n",
        function("mean") + f"LINE = '{'x' * 300}'\n",
        "TABLE = [\n" + "    (1, 2, 3),\n" * 50 + "]\n",
        function("mean") + "# ёжик\n" * 60,
    ],
    ids=["short", "does not parse", "long line", "table", "not English"],
)
def test_what_is_no_written_code_is_not(text: str) -> None:
    assert not is_wanted_text(text)


def test_split_depends_on_the_path_alone_and_holds_out_about_one_in_twenty() -> None:
    splits = [split_of(f"package/module_{number}.py") for number in range(4000)]
    assert splits == [split_of(f"package/module_{number}.py") for number in range(4000)]
    assert 150 < splits.count("held_out") < 250


def test_a_copy_of_a_held_out_file_is_never_trained_on() -> None:
    held_out = next(path for n in range(1000) if split_of(path := f"b/{n}.py") == "held_out")
    trained = next(path for n in range(1000) if split_of(path := f"a/{n}.py") == "train")
    text = function("mean")
    kept = list(without_copies([(trained, "MIT", text + "\n# vendored copy\n"), (held_out, "MIT", text)]))
    assert [path for path, _, _ in kept] == [held_out]


def test_different_files_are_all_kept() -> None:
    files = [(f"a/{name}.py", "MIT", function(name)) for name in ("mean", "deviation", "median")]
    assert sorted(without_copies(files)) == sorted(files)
