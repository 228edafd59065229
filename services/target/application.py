"""The target model as a server."""

import logging
from dataclasses import replace

from outrider.v1 import common_pb2, target_pb2_grpc
from services.engine.model.model import Model
from services.engine.scheduling.engine import Engine
from services.engine.startup.application import MODEL_SERVICE, ModelApplication
from services.engine.startup.exactness import choose_auto, choose_on
from services.engine.startup.measuring import Measuring
from services.engine.startup.model_service import LoadedModel
from services.frame.server import FrameServer
from services.target.chat_templates import ChatTemplates
from services.target.servicer import TargetServicer
from services.target.settings import TargetSettings

_log = logging.getLogger(__name__)
# Of the time that there is for measuring, what finding out about exactness gets.
_EXACT_SHARE = 0.875
# Drafts that are longer are rare, and snapshots of a state for all of their rows take memory in every slot.
_USUAL_DRAFT_TOKENS = 7


class TargetApplication(ModelApplication):
    """The target model behind TargetService and ModelService."""

    service_names = ("outrider.v1.TargetService", MODEL_SERVICE)

    def __init__(self, settings: TargetSettings) -> None:
        super().__init__(settings)
        if settings.max_draft_tokens:
            # And a row that exact mode adds.
            self.most_rejected = min(settings.max_draft_tokens, _USUAL_DRAFT_TOKENS) + 1
        self._exact = settings.exact

    def on_loaded(self, model: Model) -> None:
        """The model was loaded: compile its chat templates. Text can be generated where one is not valid."""
        super().on_loaded(model)
        self._chat_templates = ChatTemplates(model.chat_templates, model.vocabulary)
        # Now rather than with the first request: large vocabularies take a part of a second.
        model.vocabulary.tokenize("a", add_bos=True, parse_special=False)
        for name, problem in self._chat_templates.problems.items():
            called = f" ({name})" if name else ""
            _log.warning("chats are refused%s: %s", called, problem)

    def choose(self, loaded: LoadedModel, measuring: Measuring) -> LoadedModel:
        """Choose a way to exactness where the settings want one. Raises ModelLoadError where `on` cannot be had."""
        if self._exact != "off":
            self.announce(f"probing {loaded.model.path.name} for exactness")
            choose = choose_on if self._exact == "on" else choose_auto
            # A probe may take all that it gets.
            budget = measuring.budget.part(_EXACT_SHARE * measuring.budget.left_s)
            self.exactness = choose(loaded, self.settings.max_draft_tokens, replace(measuring, budget=budget))
        return super().choose(loaded, measuring)

    def register(self, server: FrameServer, model: Model, engine: Engine, info: common_pb2.ModelInfo) -> None:
        """Register TargetService, and say whether the model has a chat template that works."""
        info.has_chat_template = self._chat_templates.has_usual
        servicer = TargetServicer(server, model.vocabulary, engine, info, self._chat_templates)
        server.register(target_pb2_grpc.add_TargetServiceServicer_to_server, servicer)
