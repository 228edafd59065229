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


@pytest.fixture(scope="module")
def system(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """`outrider serve`, shared by the tests of a module."""
    with serving(tmp_path_factory.mktemp("home"), *pair.flags) as system:
        yield system
