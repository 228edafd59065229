"""What a service says of the memory of a model that keeps a state: when it starts, of itself and in its metrics."""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from services.engine.model.cache_shape import cache_shape
from services.engine.model.gguf_file import GgufFile
from services.frame.program.startup import StartupError
from services.frame.server import FrameServer
from services.frame.telemetry import Telemetry
from services.target.application import TargetApplication
from services.target.settings import TargetSettings
from tests import foreign_models
from tests.integration import unusual_models
from tests.integration.services import ENGINE_SETTINGS, OFF, client_of, draft_server, model_of, orchestrator_server

pytestmark = pytest.mark.integration

MIB = 1 << 20
NUM_SLOTS = ENGINE_SETTINGS["slots"]


@dataclass
class Served:
    """A target with such a model, and what its meter was told."""

    path: Path
    server: FrameServer
    reader: InMemoryMetricReader = field(repr=False)

    def kept_bytes(self) -> int | float | None:
        """The last value of the gauge of older states, None where there is no such gauge."""
        data = self.reader.get_metrics_data()
        scopes = data.resource_metrics[0].scope_metrics if data is not None else ()
        found = [metric for scope in scopes for metric in scope.metrics if metric.name.endswith("checkpoint_memory")]
        return found[0].data.data_points[0].value if found else None  # type: ignore[union-attr]


def server_of(path: Path, telemetry: Telemetry | None = None, **settings: int) -> FrameServer:
    """A target as the service makes it, not started."""
    values = TargetSettings.model_validate({**ENGINE_SETTINGS, "port": 0, "exact": "off", "model": path, **settings})
    return FrameServer(values, TargetApplication(values), telemetry)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return unusual_models.granite_hybrid(tmp_path / "model.gguf")


@pytest.fixture
async def served(path: Path) -> AsyncIterator[Served]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    async with AsyncExitStack() as stack:
        stack.callback(provider.shutdown)
        server = await stack.enter_async_context(server_of(path, Telemetry(meter_provider=provider)))
        yield Served(path, server, reader)


def saved_bytes(path: Path) -> int:
    """Return the size of one saved state."""
    with GgufFile(path) as file:
        return cache_shape(file).saved_bytes()


async def test_older_states_are_measured(served: Served) -> None:
    assert served.kept_bytes() == 0
    async with orchestrator_server(served.server.address) as orchestrator, client_of(orchestrator) as client:
        for number in range(20):
            await client.generate(f"{number} {'word ' * 30}", max_tokens=1, speculation=OFF)
    kept_bytes = served.kept_bytes()
    assert kept_bytes is not None
    assert 0 < kept_bytes <= 4 * NUM_SLOTS * saved_bytes(served.path)
    assert kept_bytes % saved_bytes(served.path) == 0


async def test_room_for_older_states_counts_as_cache(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sizes = {}
    for checkpoint_mib in (0, 2, -1):
        async with server_of(path, checkpoint_mib=checkpoint_mib) as server:
            sizes[checkpoint_mib] = (await model_of(server)).cache_bytes
    assert sizes[2] == sizes[0] + 2 * MIB
    assert sizes[-1] == sizes[0] + 4 * NUM_SLOTS * saved_bytes(path)
    lines = [record.getMessage() for record in caplog.records if "serving" in record.getMessage()]
    assert [line.split(" with ")[1].split(",")[0] for line in lines] == [
        "0 MiB of states",
        "2 MiB of states",
        "0 MiB of states",
    ]


@pytest.mark.parametrize(("max_draft_tokens", "num_snapshots"), [(16, 8), (3, 4), (0, 0)])
async def test_snapshots_count_as_cache(
    max_draft_tokens: int, num_snapshots: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = foreign_models.hybrid(tmp_path / "model.gguf")
    sizes = {}
    for checkpoint_mib in (0, 2, -1):
        async with server_of(path, checkpoint_mib=checkpoint_mib, max_draft_tokens=max_draft_tokens) as server:
            sizes[checkpoint_mib] = (await model_of(server)).cache_bytes
    with GgufFile(path) as file:
        state_bytes = sum(cache_shape(file).state_bytes())
    assert sizes[2] == sizes[0] + 2 * MIB
    assert sizes[-1] == sizes[0] + NUM_SLOTS * (4 * saved_bytes(path) + num_snapshots * state_bytes)
    lines = [record.getMessage() for record in caplog.records if "serving" in record.getMessage()]
    told = f" and {num_snapshots} snapshots a slot, " if num_snapshots else " MiB of states, "
    assert [told in line for line in lines] == [not num_snapshots, True, True]


async def test_a_draft_has_no_snapshots(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with draft_server(foreign_models.hybrid(tmp_path / "model.gguf")):
        pass
    assert "serving" in caplog.text
    assert "snapshots a slot" not in caplog.text


async def test_room_that_there_is_not_is_refused(path: Path) -> None:
    with pytest.raises(StartupError, match="lower --slots, --context or --checkpoint-mib"):
        async with server_of(path, checkpoint_mib=1 << 20):
            pass
