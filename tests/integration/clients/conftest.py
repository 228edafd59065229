"""A target, and somebody else whom it serves."""

from collections.abc import AsyncIterator

import grpc
import pytest

from tests.integration.clients.target import Other, Target, serving
from tests.integration.conftest import Pair


@pytest.fixture
async def target(pair: Pair) -> AsyncIterator[Target]:
    async with serving(pair) as target:
        yield target


@pytest.fixture
async def other(target: Target) -> AsyncIterator[Other]:
    async with grpc.aio.insecure_channel(target.server.address) as channel:
        other = Other(target, channel)
        await other.ask()
        yield other
