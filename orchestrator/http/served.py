"""What HTTP requests are served with. The server listens before all of it is there."""

import time
from dataclasses import dataclass, field

from orchestrator.generation.service import GenerationService
from orchestrator.peers.backend import Backend
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2, generation_pb2
from services.frame.server import FrameServer

# What a request may call the model that everybody means.
TARGET = "target"
DRAFT = "draft"


@dataclass
class Served:
    """The orchestrator as its HTTP face sees it. `service` is there once the target was found."""

    settings: OrchestratorSettings
    server: FrameServer
    backend: Backend
    service: GenerationService | None = None
    started_s: int = field(default_factory=lambda: int(time.time()))

    @property
    def generation(self) -> GenerationService:
        """What serves; requests come in only once it is there."""
        assert self.service is not None, "requests are let in once the application has started"
        return self.service

    @property
    def target(self) -> common_pb2.ModelInfo:
        """The target's model, as it was last seen."""
        return self.backend.target.served.info

    @property
    def fingerprint(self) -> str:
        """What OpenAI calls the system's fingerprint: equal ones compute the same logits."""
        return f"fp_{self.target.numerics_fingerprint[:16]}"

    def obstacle(self) -> str:
        """Return what keeps requests from being answered now, empty where nothing does."""
        if self.server.draining.is_set():
            return "the service is stopping"
        if self.service is None:
            return "the service is still starting" + (f": {self.server.wait}" if self.server.wait else "")
        status = self.service.status().target
        return "" if status.is_available else status.reason

    def draft(self) -> generation_pb2.ServiceStatus | None:
        """Return the first draft, where there is one and its model is known."""
        for draft in self.backend.drafts:
            status = draft.status()
            if status.HasField("model"):
                return status
        return None
