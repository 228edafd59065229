"""Three services whose spans end up in one collector."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from services.frame.telemetry import configure_telemetry
from tests.collector import COLLECTING, Collector
from tests.integration.conftest import Pair
from tests.integration.services import Gate, client_of, draft_server, orchestrator_server, target_server
from tests.integration.tracing.traced import CLIENT, DRAFT, ORCHESTRATOR, TARGET, Traced


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Collector]:
    """A collector that the environment names; `param` is the protocol."""
    protocol = getattr(request, "param", "grpc")
    with COLLECTING[protocol]() as collector:
        collector.open.set()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "5")
        yield collector


@pytest.fixture(params=["cycle"])
async def traced(pair: Pair, collector: Collector, request: pytest.FixtureRequest) -> AsyncIterator[Traced]:
    """`param` is how much detail the orchestrator traces; the services would trace every message."""
    gates = Gate(), Gate()
    async with AsyncExitStack() as stack:
        telemetries = {service: configure_telemetry(service) for service in (CLIENT, TARGET, DRAFT, ORCHESTRATOR)}
        for telemetry in telemetries.values():
            stack.callback(telemetry.shutdown)
        target = await stack.enter_async_context(target_server(pair.target, gates[0], telemetries[TARGET]))
        draft = await stack.enter_async_context(draft_server(pair.draft, gates[1], telemetries[DRAFT]))
        server = await stack.enter_async_context(
            orchestrator_server(target.address, draft.address, telemetries[ORCHESTRATOR], trace_detail=request.param)
        )
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        yield Traced(client, target, draft, *gates, collector, telemetries)
