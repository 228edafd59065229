"""A client of GenerationService, which says whose fault it is where nobody answers."""

from collections.abc import AsyncIterator

import grpc

from outrider.v1 import generation_pb2, generation_pb2_grpc
from services.frame.rpc.channel import ANONYMOUS, Credentials, open_channel
from services.frame.rpc.errors import ServiceError, error_from_rpc, is_from_server

# What gRPC makes of nobody, of another program, and of what proxies say and do.
_UNREACHABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.CANCELLED,
)


async def generate(
    address: str, request: generation_pb2.GenerateRequest, credentials: Credentials = ANONYMOUS
) -> AsyncIterator[generation_pb2.GenerateResponse]:
    """Stream the answer of a running orchestrator. Raises ServiceError, and StartupError for unusable credentials."""
    async with open_channel(address, credentials=credentials) as channel:
        has_begun = False
        try:
            async for message in generation_pb2_grpc.GenerationServiceStub(channel).Generate(request):
                has_begun = True
                yield message
        except grpc.aio.AioRpcError as error:
            raise _described(error, address, has_begun=has_begun) from error


async def fetch_status(address: str, credentials: Credentials = ANONYMOUS) -> generation_pb2.GetStatusResponse:
    """Ask a running orchestrator how it is doing. Raises as `generate` does."""
    async with open_channel(address, credentials=credentials) as channel:
        try:
            return await generation_pb2_grpc.GenerationServiceStub(channel).GetStatus(generation_pb2.GetStatusRequest())
        except grpc.aio.AioRpcError as error:
            raise _described(error, address) from error


def _described(error: grpc.aio.AioRpcError, address: str, *, has_begun: bool = False) -> ServiceError:
    """Return the error; by whose fault, and with advice, where it was no orchestrator that said it."""
    if is_from_server(error) or error.code() not in _UNREACHABLE:
        return error_from_rpc(error)
    if has_begun:
        sentence = f"the orchestrator at {address} was lost ({error.details()}): ask again"
    elif error.code() is grpc.StatusCode.UNIMPLEMENTED:
        sentence = f"what answers at {address} is no orchestrator ({error.details()}): name another --address"
    else:
        advice = "start one with `outrider serve`, or name another --address"
        sentence = f"no orchestrator answers at {address} ({error.details()}): {advice}"
    return ServiceError(error.code(), "UNREACHABLE", sentence)
