"""The target model as a server."""

from outrider.v1 import common_pb2, target_pb2_grpc
from services.engine.application import MODEL_SERVICE, ModelApplication
from services.engine.engine import Engine
from services.engine.model import Model
from services.frame.server import FrameServer
from services.target.servicer import TargetServicer


class TargetApplication(ModelApplication):
    """The target model behind TargetService and ModelService."""

    service_names = ("outrider.v1.TargetService", MODEL_SERVICE)

    def register(self, server: FrameServer, model: Model, engine: Engine, info: common_pb2.ModelInfo) -> None:
        """Register TargetService."""
        servicer = TargetServicer(server, model.vocabulary, engine, info)
        server.register(target_pb2_grpc.add_TargetServiceServicer_to_server, servicer)
