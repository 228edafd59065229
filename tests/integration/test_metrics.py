"""Metrics of requests, however they end, by the conventions for generative AI."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from outrider.v1 import target_pb2
from services.frame.server import FrameServer
from services.frame.telemetry import Telemetry
from tests.integration.conftest import Pair
from tests.integration.services import (
    OFF,
    Client,
    Gate,
    client_of,
    fixed,
    generate_request,
    orchestrator_server,
    target_server,
)
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration

DURATION = "gen_ai.server.request.duration"
FIRST_TOKEN = "gen_ai.server.time_to_first_token"
TOKEN = "gen_ai.server.time_per_output_token"
ATTRIBUTES = {
    "gen_ai.operation.name": "text_completion",
    "gen_ai.provider.name": "outrider",
    "gen_ai.request.model": "outrider-target",
    "gen_ai.response.model": "outrider-target",
}


@dataclass
class Metered:
    """An orchestrator with a target behind a gate, and what its meter was told."""

    client: Client
    target: FrameServer
    gate: Gate
    reader: InMemoryMetricReader = field(repr=False)

    def points(self) -> dict[str, list[Any]]:
        """The points of every metric that has any, by its name."""
        data = self.reader.get_metrics_data()
        scopes = data.resource_metrics[0].scope_metrics if data is not None else ()
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}

    def ends(self) -> dict[str, int]:
        """How many requests have ended, by `error.type`, empty for those that were answered."""
        found = {}
        for point in self.points().get(DURATION, []):
            attributes = dict(point.attributes)
            kind = attributes.pop("error.type", "")
            assert attributes["gen_ai.operation.name"] in ("text_completion", "chat")
            assert attributes | {"gen_ai.operation.name": "text_completion"} == ATTRIBUTES
            found[kind] = found.get(kind, 0) + point.count
        return found

    def total(self, name: str) -> int:
        return sum(point.value for point in self.points().get(name, []))


@pytest.fixture
async def metered(pair: Pair) -> AsyncIterator[Metered]:
    reader, gate = InMemoryMetricReader(), Gate()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    async with AsyncExitStack() as stack:
        stack.callback(provider.shutdown)
        telemetry = Telemetry(meter_provider=provider)
        target = await stack.enter_async_context(target_server(pair.target, gate))
        server = await stack.enter_async_context(
            orchestrator_server(target.address, telemetry=telemetry, target_patience_s=0.2)
        )
        client = await stack.enter_async_context(client_of(server))
        yield Metered(client, target, gate, reader)


async def test_an_answer_is_measured(metered: Metered) -> None:
    generated = await metered.client.generate(max_tokens=5, speculation=OFF)
    timings = generated.summary.timings
    points = metered.points()
    (first,), (token,), (duration,) = (points[name] for name in (FIRST_TOKEN, TOKEN, DURATION))
    assert {frozenset(dict(point.attributes).items()) for point in (first, token, duration)} == {
        frozenset(ATTRIBUTES.items())
    }
    assert [point.count for point in (first, token, duration)] == [1, 1, 1]
    assert first.sum == pytest.approx(timings.first_token_ms / 1e3)
    assert token.sum == pytest.approx((timings.total_ms - timings.first_token_ms) / 1e3 / 4)
    assert duration.sum >= timings.total_ms / 1e3


async def test_one_token_has_no_time_between_tokens(metered: Metered) -> None:
    await metered.client.generate(max_tokens=1, speculation=OFF)
    assert metered.ends() == {"": 1}
    assert TOKEN not in metered.points()


async def test_a_chat_is_told_from_a_text(metered: Metered) -> None:
    chat = {"messages": [target_pb2.ChatMessage(role="user", content="hello")]}
    with pytest.raises(grpc.aio.AioRpcError):  # the bundled model has no template
        await metered.client.generate(chat=chat)
    assert metered.ends() == {"CHAT_TEMPLATE": 1}
    assert [point.attributes["gen_ai.operation.name"] for point in metered.points()[DURATION]] == ["chat"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"max_tokens": 0}, "INVALID_REQUEST"),
        ({"text": ""}, "EMPTY_PROMPT"),
        ({"temperature": -1.0}, "INVALID_SAMPLING"),  # the target refuses it
        ({"require_exact": True}, "EXACT_UNAVAILABLE"),
        ({"text": "def f(" * 1000}, "PROMPT_TOO_LONG"),
    ],
)
async def test_a_refusal_is_counted(metered: Metered, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        async for _ in metered.client.stub.Generate(generate_request(**fields), timeout=PATIENCE_S):
            pass
    assert metered.ends() == {reason: 1}
    assert FIRST_TOKEN not in metered.points()


async def test_a_target_that_is_away_is_counted(metered: Metered) -> None:
    await metered.target.stop(0)
    with pytest.raises(grpc.aio.AioRpcError):
        await metered.client.generate(max_tokens=1)
    assert metered.ends() == {"TARGET_UNAVAILABLE": 1}


async def test_what_is_given_up_is_counted_with_what_was_done(metered: Metered) -> None:
    metered.gate.hold_after(3)
    call = metered.client.stub.Generate(generate_request(speculation=OFF), timeout=PATIENCE_S)
    received = [await call.read() for _ in range(3)]
    await metered.gate.reached()
    call.cancel()
    await soon(lambda: metered.ends() == {"CANCELLED": 1})
    metered.gate.open()
    await soon(lambda: metered.total("outrider.generated_tokens") == len(received))
    assert metered.total("outrider.cycles") == len(received)
    assert FIRST_TOKEN not in metered.points()


async def test_an_unexpected_error_is_counted_by_its_full_name(
    metered: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OddError(Exception):
        pass

    def fail(*_: object) -> None:
        raise OddError

    monkeypatch.setattr("orchestrator.generation.service.plan_speculation", fail)
    with pytest.raises(grpc.aio.AioRpcError):
        await metered.client.generate(max_tokens=1)
    assert metered.ends() == {f"{__name__}.{OddError.__qualname__}": 1}


async def test_what_becomes_of_the_last_message_is_no_failure(metered: Metered) -> None:
    call = metered.client.stub.Generate(generate_request(max_tokens=2, speculation=fixed(1)), timeout=PATIENCE_S)
    async for message in call:
        if message.HasField("summary"):
            call.cancel()
            break
    assert metered.ends() == {"": 1}
