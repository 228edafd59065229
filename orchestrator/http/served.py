"""What HTTP requests are served with. The server listens before all of it is there."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from starlette.requests import Request

from orchestrator.drafting.drafter import DRAFTERS
from orchestrator.generation.request import model_unknown
from orchestrator.generation.service import GenerationService
from orchestrator.generation.speculation import most_draft_tokens
from orchestrator.http.exchange.running import Generations
from orchestrator.peers.backend import Backend
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2, generation_pb2
from services.frame.program.api_keys import caller_name
from services.frame.server import FrameServer
from services.frame.telemetry import TraceHeaders

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

    def model(self, name: str | None) -> common_pb2.ModelInfo:
        """Return the model that a request means, as it was last seen. Raises ServiceError where there is none."""
        models = self.backend.models()
        if (peer := models.get(name or TARGET)) is None:
            raise model_unknown(name or "", models)
        return peer.model

    def generations(
        self, asked: Request, requests: Sequence[generation_pb2.GenerateRequest], names: Mapping[str, str]
    ) -> Generations:
        """Return what an HTTP request asks for; `names` are its fields by their beginnings in GenerateRequest."""
        pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in asked.headers.raw)
        headers = TraceHeaders.of_metadata(pairs)
        # More than there are slots would only wait for each other.
        return Generations(self.generation, requests, headers, names, max(1, self.target.num_slots))

    def most_draft_tokens(self, request: generation_pb2.GenerateRequest) -> int:
        """Return how many draft tokens a cycle of a request may have, 0 where nobody drafts."""
        drafter = request.speculation.drafter or DRAFTERS[self.settings.drafter]
        is_target = self.backend.models().get(request.model or TARGET) is self.backend.target
        if drafter == generation_pb2.DRAFTER_NONE or not is_target:
            return 0
        return min(most_draft_tokens(request.speculation, self.settings), self.target.max_draft_tokens)

    def obstacle(self) -> str:
        """Return what keeps requests from being answered now, empty where nothing does.

        Where keys are asked for, who has shown none learns the state alone: the reason names addresses and files.
        """
        is_stranger = self.server.keys is not None and not caller_name.get()
        if self.server.draining.is_set():
            return "the service is stopping"
        if self.service is None:
            wait = "" if is_stranger else self.server.wait
            return "the service is still starting" + (f": {wait}" if wait else "")
        status = self.service.status().target
        if status.is_available:
            return ""
        return "the service waits for its target" if is_stranger else status.reason

    def draft(self) -> generation_pb2.ServiceStatus | None:
        """Return the first draft, where there is one and its model is known."""
        for draft in self.backend.drafts:
            status = draft.status()
            if status.HasField("model"):
                return status
        return None


def fingerprint(model: common_pb2.ModelInfo) -> str:
    """Return what OpenAI calls the system's fingerprint: equal ones compute the same logits."""
    return f"fp_{model.numerics_fingerprint[:16]}"
