"""The target model as a server."""

from platformdirs import user_cache_path

from outrider.v1 import common_pb2, target_pb2_grpc
from services.engine.application import MODEL_SERVICE, ModelApplication
from services.engine.engine import Engine
from services.engine.errors import ModelLoadError
from services.engine.exactness import choose_auto, choose_on
from services.engine.model import Model
from services.engine.model_service import Served
from services.engine.runtime import Runtime
from services.frame.server import FrameServer
from services.frame.startup import StartupError
from services.target.chat import ChatError, ChatTemplate
from services.target.servicer import TargetServicer
from services.target.settings import TargetSettings


class TargetApplication(ModelApplication):
    """The target model behind TargetService and ModelService."""

    service_names = ("outrider.v1.TargetService", MODEL_SERVICE)

    def __init__(self, settings: TargetSettings) -> None:
        super().__init__(settings)
        self._exact = settings.exact
        self._chat_template: ChatTemplate | None = None

    async def start(self, server: FrameServer) -> None:
        """Load and answer. Raises StartupError when the model cannot be served as the settings want it."""
        if self._exact != "off":
            _check_cache_folder()
        await super().start(server)

    def make_runtime(self, served: Served) -> Runtime:
        """Make an exact runtime where the settings want one. Raises ModelLoadError where `on` cannot be had."""
        model = served.model
        if source := model.metadata("tokenizer.chat_template"):
            try:
                self._chat_template = ChatTemplate(source, model.vocabulary)
            except ChatError as error:
                raise ModelLoadError(f"cannot serve {model.path}: {error}") from error
        if self._exact != "off":
            choose = choose_on if self._exact == "on" else choose_auto
            self.exactness = choose(model, served.options, self.settings.max_draft_tokens, served.identity)
        return super().make_runtime(served)

    def register(self, server: FrameServer, model: Model, engine: Engine, info: common_pb2.ModelInfo) -> None:
        """Register TargetService."""
        servicer = TargetServicer(server, model.vocabulary, engine, info, self._chat_template)
        server.register(target_pb2_grpc.add_TargetServiceServicer_to_server, servicer)


def _check_cache_folder() -> None:
    """Raise StartupError for a user who has no folder in which results of the probe could be kept."""
    try:
        user_cache_path("outrider", ensure_exists=True)
    except (OSError, RuntimeError) as error:  # the latter where no home folder is known
        raise StartupError(
            f"what the probe of exactness finds cannot be kept ({error}): "
            "set XDG_CACHE_HOME to a folder that can be written, or --exact off"
        ) from error
