"""GenerationService as gRPC clients see it."""

from orchestrator.generation.service import GenerationService
from outrider.v1 import generation_pb2, generation_pb2_grpc
from services.frame.rpc.handlers import RpcContext
from services.frame.telemetry import TraceHeaders


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Hands calls to the service, and its messages to the calls."""

    def __init__(self, service: GenerationService) -> None:
        self._service = service

    async def Generate(  # type: ignore[override]  # replies are written to the context
        self, request: generation_pb2.GenerateRequest, context: RpcContext
    ) -> None:
        """Stream text, then a summary."""
        await self._service.generate(request, TraceHeaders.of_metadata(context.invocation_metadata()), context.write)

    async def GetStatus(
        self, request: generation_pb2.GetStatusRequest, context: RpcContext
    ) -> generation_pb2.GetStatusResponse:
        """Return the state of the orchestrator and its services."""
        return self._service.status()
