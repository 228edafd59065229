"""The draft model as a server."""

from outrider.v1 import common_pb2, draft_pb2_grpc
from services.draft.servicer import DraftServicer
from services.engine.model.model import Model
from services.engine.scheduling.engine import Engine
from services.engine.startup.application import MODEL_SERVICE, ModelApplication
from services.frame.server import FrameServer


class DraftApplication(ModelApplication):
    """The draft model behind DraftService and ModelService."""

    service_names = ("outrider.v1.DraftService", MODEL_SERVICE)

    def register(self, server: FrameServer, model: Model, engine: Engine, info: common_pb2.ModelInfo) -> None:
        """Register DraftService with the model's tokens, its engine and its limits."""
        servicer = DraftServicer(server, model.vocabulary, engine, info)
        server.register(draft_pb2_grpc.add_DraftServiceServicer_to_server, servicer)
