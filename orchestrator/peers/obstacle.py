"""Why a target or draft service does not serve yet: as it says itself, or as the way to it says."""

from dataclasses import dataclass

import grpc

from outrider.v1 import model_pb2, model_pb2_grpc
from services.frame.rpc.errors import METADATA_WAIT, REASON_NOT_READY, error_from_rpc


@dataclass(frozen=True)
class Obstacle:
    """Why a service does not serve, in a few words. One that `is_not_ready` is as it should be, and says so itself."""

    text: str
    is_not_ready: bool


async def find_obstacle(channel: grpc.aio.Channel, timeout_s: float) -> Obstacle | None:
    """Ask a service with a model what is in its way; None where it serves."""
    stub = model_pb2_grpc.ModelServiceStub(channel)
    try:
        await stub.GetModel(model_pb2.GetModelRequest(), timeout=timeout_s)
    except grpc.aio.AioRpcError as failure:
        error = error_from_rpc(failure)
        return Obstacle(error.metadata.get(METADATA_WAIT) or error.message, error.reason == REASON_NOT_READY)
    return None
