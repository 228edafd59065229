"""The corpus: which Python files are kept, under which licence, and which are held out."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Literal

from models.command import CommandError
from models.train.packages import COPYLEFT, PACKAGES, PERMISSIVE, SKIPPED_FOLDERS, STDLIB_LICENCE
from services.frame.program.atomic_file import replacing

Split = Literal["train", "held_out"]

HELD_OUT_SHARE = 20
"""One file in this many is held out (5 %)."""
MIN_BYTES = 200
MAX_BYTES = 200_000
MAX_LINE = 200
MIN_ASCII_SHARE = 0.98
MAX_TABLE_SHARE = 0.45
MAX_SEEN_SHARE = 0.6
MIN_TELLING_LINE = 12


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One kept file: ``path`` is ``<package>/<path in the package>``, ``num_bytes`` the length of its UTF-8 text."""

    path: str
    licence: str
    split: Split
    num_bytes: int
    sha256: str


def split_of(path: str) -> Split:
    """Say where a file belongs by a hash of its path alone, so that a rebuilt corpus holds out the same files."""
    number = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big")
    return "held_out" if number % HELD_OUT_SHARE == 0 else "train"


def licence_of(distribution: Distribution) -> str | None:
    """Return the licence a distribution declares, or None where it is not plainly a permissive one.

    Read from License-Expression, else the licence classifiers, else the first line of License.
    """
    metadata = distribution.metadata
    classifiers = {c.rsplit("::", 1)[-1].strip() for c in metadata.get_all("Classifier") or () if "License ::" in c}
    first_line = (metadata.get_all("License") or [""])[0].strip().split("\n", 1)[0]
    from_classifiers = " AND ".join(sorted(classifiers - {"OSI Approved"}))
    declared = (metadata.get_all("License-Expression") or [""])[0] or from_classifiers or first_line
    upper = declared.upper()
    if any(word in upper for word in COPYLEFT) or not any(word in upper for word in PERMISSIVE):
        return None
    return declared


def is_wanted_path(path: Path) -> bool:
    """Say whether a relative path is ordinary source: no tests, tables, generated stubs or vendored copies."""
    name = path.name
    if path.suffix != ".py" or any(part in SKIPPED_FOLDERS for part in path.parts[:-1]):
        return False
    return not (
        name.endswith(("_pb2.py", "_pb2_grpc.py", "_test.py"))
        or name.startswith(("test_", "_sysconfigdata", "conftest"))
        or "site-packages" in path.parts
    )


def is_wanted_text(text: str) -> bool:
    """Say whether a text is code somebody wrote: it parses, has ordinary lines, and is no table of literals."""
    num_bytes = len(text.encode())
    if not MIN_BYTES <= num_bytes <= MAX_BYTES or sum(map(str.isascii, text)) < MIN_ASCII_SHARE * len(text):
        return False
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines or max(map(len, lines)) > MAX_LINE:
        return False
    if sum(1 for line in lines if re.match(r"""['"\d(\[{-].*[,)\]}]$""", line)) > MAX_TABLE_SHARE * len(lines):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return False
    return True


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n").replace("\f", "")
    except UnicodeDecodeError:
        return None


def _candidates(packages_dir: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (path, licence, text) of every wanted file, in the order of their paths within each source."""
    stdlib = Path(sysconfig.get_path("stdlib"))
    sources: list[tuple[str, str, Path, list[Path]]] = [
        ("stdlib", STDLIB_LICENCE, stdlib, sorted(path.relative_to(stdlib) for path in stdlib.rglob("*.py")))
    ]
    for distribution in sorted(distributions(path=[str(packages_dir)]), key=lambda d: d.metadata["Name"].lower()):
        licence = licence_of(distribution)
        if licence is None:
            continue
        files = sorted({Path(str(file)) for file in distribution.files or ()})
        sources.append((distribution.metadata["Name"].lower().replace("_", "-"), licence, packages_dir, files))
    for name, licence, root, files in sources:
        for file in files:
            if not is_wanted_path(file) or not (root / file).is_file():
                continue
            text = _read(root / file)
            if text is not None and is_wanted_text(text):
                yield f"{name}/{file.as_posix()}", licence, text


def without_copies(candidates: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, str, str]]:
    """Drop every file most of whose telling lines were seen in files before it; held-out files go first.

    Going first, a held-out file stays and its copies leave the training part, so no copy of it is trained on.
    """
    seen: set[int] = set()
    for path, licence, text in sorted(candidates, key=lambda c: (split_of(c[0]) == "train", c[0])):
        telling = {
            int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest(), "big")
            for line in map(str.strip, text.split("\n"))
            if len(line) >= MIN_TELLING_LINE
        }
        if len(telling & seen) > MAX_SEEN_SHARE * len(telling):
            continue
        seen |= telling
        yield path, licence, text


def install_packages(packages_dir: Path) -> None:
    """Install the pinned packages, without dependencies, into a folder of their own.

    Raises subprocess.CalledProcessError where pip fails.
    """
    done = packages_dir / ".complete"
    wanted = "\n".join(PACKAGES)
    if done.is_file() and done.read_bytes() == wanted.encode():
        return
    command = [sys.executable, "-P", "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--only-binary", ":all:"]
    subprocess.run([*command, "--upgrade", "--target", str(packages_dir), *PACKAGES], check=True)
    done.write_text(wanted)


def build_corpus(work_dir: Path) -> list[CorpusFile]:
    """Write ``corpus/{train,held_out}/<path>`` and ``corpus/manifest.json`` under work_dir; return the manifest."""
    packages_dir = work_dir / "packages"
    install_packages(packages_dir)
    manifest: list[CorpusFile] = []
    for path, licence, text in without_copies(_candidates(packages_dir)):
        data = text.encode()
        split = split_of(path)
        target = work_dir / "corpus" / split / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        manifest.append(CorpusFile(path, licence, split, len(data), hashlib.sha256(data).hexdigest()))
    with replacing(work_dir / "corpus" / "manifest.json") as temporary:
        temporary.write_text(json.dumps([asdict(file) for file in manifest], indent=0) + "\n")
    return manifest


def read_manifest(work_dir: Path) -> list[CorpusFile]:
    """Read the manifest written by build_corpus.

    Raises FileNotFoundError where the corpus step has not run, CommandError for something else in its place.
    """
    path = work_dir / "corpus" / "manifest.json"
    try:
        return [CorpusFile(**entry) for entry in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise CommandError(f"{path} is no manifest ({error}): python -m models.train corpus makes it anew") from error


def read_texts(work_dir: Path, split: Split) -> list[tuple[str, str]]:
    """Return (path, text) of every file of a split, in the manifest's order."""
    folder = work_dir / "corpus" / split
    paths = [file.path for file in read_manifest(work_dir) if file.split == split]
    try:
        return [(path, (folder / path).read_text(encoding="utf-8")) for path in paths]
    except UnicodeDecodeError as error:
        problem = f"{folder} holds a file that is not UTF-8: python -m models.train corpus makes it anew"
        raise CommandError(problem) from error
