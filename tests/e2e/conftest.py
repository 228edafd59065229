"""The bundled pair as files, and a system that serves it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.bundled import bundled_pair
from tests.e2e.programs import Serving, serving


@dataclass(frozen=True)
class Pair:
    """Model files of a pair, and the flags that name them."""

    target: Path
    draft: Path

    @property
    def flags(self) -> list[str]:
        return ["--target", str(self.target), "--draft", str(self.draft)]


@pytest.fixture(scope="session")
def pair() -> Pair:
    return Pair(*bundled_pair())


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs keep their files. What one of them measured of a model, the next ones need not."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def system(pair: Pair, home: Path) -> Iterator[Serving]:
    """`outrider serve`, shared by the tests of a module."""
    with serving(home, *pair.flags) as system:
        yield system
