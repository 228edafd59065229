"""Whether a service is there, and the same, and why not: as it says itself, or as the way to it says."""

import asyncio
import contextlib
from dataclasses import dataclass

import grpc

from outrider.v1 import common_pb2, model_pb2, model_pb2_grpc
from services.frame.rpc.errors import METADATA_WAIT, REASON_NOT_READY, ServiceError, error_from_rpc
from services.frame.rpc.health import watch_health

# How long a service whose watch was cut may take to answer.
_ANSWER_S = 5.0
# Before it is watched again.
_PAUSE_S = 1.0
# Statuses that no program gives that answers by itself.
_SILENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True)
class Obstacle:
    """Why a service does not serve, in a few words. One that `is_not_ready` is as it should be, and says so itself."""

    text: str
    is_not_ready: bool


async def until_away(channel: grpc.aio.Channel, service: str, model: common_pb2.ModelInfo) -> str:
    """Return why `service`, which serves `model`, is away, once it is.

    A watch of its health that is cut proves nothing, as proxies cut every stream that is silent for long: the service
    is asked before that is taken for an outage.
    """
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for is_serving in watch_health(channel, service):
                if not is_serving:
                    return "it says that it does not serve"
        if problem := await _problem(channel, model):
            return problem
        await asyncio.sleep(_PAUSE_S)


async def describe_silence(channel: grpc.aio.Channel, timeout_s: float) -> ServiceError | None:
    """Return why a service does not answer, None where it does, or another program in its place."""
    try:
        await _get_model(channel, timeout_s)
    except grpc.aio.AioRpcError as error:
        return error_from_rpc(error) if error.code() in _SILENT else None
    return None


async def find_obstacle(channel: grpc.aio.Channel, timeout_s: float) -> Obstacle | None:
    """Ask a service with a model what is in its way; None where it serves."""
    try:
        await _get_model(channel, timeout_s)
    except grpc.aio.AioRpcError as failure:
        error = error_from_rpc(failure)
        return Obstacle(error.metadata.get(METADATA_WAIT) or error.message, error.reason == REASON_NOT_READY)
    return None


def words_of(error: grpc.aio.AioRpcError) -> str:
    """Return what a failed call says of itself."""
    return error.details() or error.code().name


def describe_stranger(error: grpc.aio.AioRpcError, address: str, role: str) -> str:
    """Return why whoever answers at `address` cannot be used as the `role`, draft or target, in one sentence."""
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return f"the {role} at {address} does not take the orchestrator's key: see --peer-api-key-file"
    return f"what answers at {address} is no {role} service: {words_of(error)}"


async def _problem(channel: grpc.aio.Channel, model: common_pb2.ModelInfo) -> str:
    """Return why a service does not serve `model` now, empty where it does."""
    try:
        served = await _get_model(channel, _ANSWER_S)
    except grpc.aio.AioRpcError as error:
        return words_of(error)
    return "" if served == model else "another model is served there now"


async def _get_model(channel: grpc.aio.Channel, timeout_s: float) -> common_pb2.ModelInfo:
    reply = await model_pb2_grpc.ModelServiceStub(channel).GetModel(model_pb2.GetModelRequest(), timeout=timeout_s)
    return reply.model
