"""An orchestrator of a test's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.integration.services import Client, client_of, orchestrator_server

SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 1}


@asynccontextmanager
async def orchestrated(target: str, draft: str = "", **settings: Any) -> AsyncIterator[Client]:
    """A client of an orchestrator of its own."""
    async with orchestrator_server(target, draft, **settings) as server, client_of(server) as client:
        yield client
