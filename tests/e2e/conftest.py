"""The bundled pair as files, and a system that serves it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from orchestrator.stack.bundled import bundled_pair
from outrider.v1 import generation_pb2_grpc
from tests.e2e.programs import Serving, serving
from tests.e2e.wild import Wild


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


@pytest.fixture
async def wild() -> AsyncIterator[str]:
    """The address of a server that says whatever it likes."""
    server = grpc.aio.server()
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(Wild(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)
