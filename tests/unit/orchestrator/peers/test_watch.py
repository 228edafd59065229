"""Whether a service is still there: what it says of its health counts, a watch that is cut does not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from orchestrator.peers import watch
from orchestrator.peers.watch import describe_silence, until_away
from outrider.v1 import common_pb2, model_pb2, model_pb2_grpc
from services.frame.rpc.errors import ServiceError, abort

NAME = "outrider.v1.TargetService"
MODEL = common_pb2.ModelInfo(name="the one", numerics_fingerprint="1")
OTHER = common_pb2.ModelInfo(name="another", numerics_fingerprint="2")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
# Statuses that cuts of a watch end with.
CUTS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)

Model = common_pb2.ModelInfo | ServiceError


class Watched(health_pb2_grpc.HealthServicer, model_pb2_grpc.ModelServiceServicer):
    """Every watch hears one status and is cut; the model, or the error, is the next one each time that it is asked."""

    def __init__(self, statuses: list[int], models: list[Model]) -> None:
        self.statuses = statuses
        self.models = models

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        yield health_pb2.HealthCheckResponse(status=self.statuses.pop(0))
        await context.abort(CUTS[len(self.statuses) % len(CUTS)], "it was cut")

    async def GetModel(self, request: Any, context: Any) -> model_pb2.GetModelResponse:
        model = self.models.pop(0)
        if isinstance(model, ServiceError):
            await abort(context, model)
        return model_pb2.GetModelResponse(model=model)

    async def GetTokenTable(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


@asynccontextmanager
async def watched(statuses: list[int], models: list[Model]) -> AsyncIterator[grpc.aio.Channel]:
    server, servicer = grpc.aio.server(), Watched(statuses, models)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)
    assert not servicer.statuses and not servicer.models


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_PAUSE_S", 0.0)


def failing(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> ServiceError:
    return ServiceError(code, "NOT_READY", "it is stopping")


@pytest.mark.parametrize(
    ("statuses", "models", "expected"),
    [
        pytest.param([NOT_SERVING], [], "it says that it does not serve", id="it says so"),
        pytest.param([UNKNOWN], [], "it says that it does not serve", id="another program"),
        pytest.param([SERVING], [failing()], "it is stopping", id="cut, and it does not answer"),
        pytest.param([SERVING], [OTHER], "another model is served there now", id="cut, and it is another one"),
        pytest.param([SERVING] * 4, [MODEL] * 3 + [failing()], "it is stopping", id="cut again and again, and well"),
    ],
)
async def test_when_a_service_is_away(statuses: list[int], models: list[Model], expected: str) -> None:
    async with watched(statuses, models) as channel:
        assert await until_away(channel, NAME, MODEL) == expected


async def test_why_a_service_does_not_answer() -> None:
    models: list[Model] = [MODEL, failing(), failing(grpc.StatusCode.UNIMPLEMENTED)]
    async with watched([], models) as channel:
        assert await describe_silence(channel, 30.0) is None
        error = await describe_silence(channel, 30.0)
        assert error is not None
        assert (error.reason, error.message) == ("NOT_READY", "it is stopping")
        # That is another program, and no silence.
        assert await describe_silence(channel, 30.0) is None
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        error = await describe_silence(channel, 30.0)
        assert error is not None
        assert "Connection refused" in error.message
