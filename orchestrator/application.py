"""The orchestrator as a server."""

from orchestrator.generation.service import GenerationService
from orchestrator.generation.servicer import GenerationServicer
from orchestrator.http.app import create_app
from orchestrator.http.served import Served
from orchestrator.http.server import HttpServer
from orchestrator.peers.backend import Backend
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import generation_pb2_grpc
from services.frame.program.output import announce
from services.frame.server import FrameServer


class OrchestratorApplication:
    """GenerationService in front of a target and a draft."""

    service_names = ("outrider.v1.GenerationService",)

    def __init__(self, settings: OrchestratorSettings) -> None:
        self._settings = settings
        self._backend: Backend | None = None
        # Where it is asked for.
        self.http: HttpServer | None = None

    async def start(self, server: FrameServer) -> None:
        """Wait for the target, then serve."""
        self._backend = Backend(self._settings, server.cycle_telemetry, server.announce_wait)
        served = Served(self._settings, server, self._backend)
        if self._settings.http:
            self.http = HttpServer(self._settings, create_app(served))
            await self.http.start()
            announce(f"HTTP at {self.http.url}")
        await self._backend.connect()
        served.service = GenerationService(self._settings, self._backend, server.telemetry)
        add_servicer = generation_pb2_grpc.add_GenerationServiceServicer_to_server
        server.register(add_servicer, GenerationServicer(served.service))

    async def stop(self) -> None:
        """Close the channels."""
        if self.http is not None:
            await self.http.stop()
        if self._backend is not None:
            await self._backend.close()
