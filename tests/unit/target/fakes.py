"""TargetService over the fake model, without a wire."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from outrider.v1 import common_pb2
from services.engine.runtime.interface import Runtime
from services.engine.scheduling.engine import Engine
from services.frame.telemetry import Telemetry
from services.target.chat_templates import ChatTemplates
from services.target.servicer import TargetServicer

END = 15
MAX_DRAFT_TOKENS = 5


def fake_target(
    engine: Engine, runtime: Runtime, exact_mode: common_pb2.ExactMode.ValueType = common_pb2.EXACT_MODE_OFF
) -> TargetServicer:
    """A servicer whose model ends a generation with token END."""
    settings = SimpleNamespace(max_message_bytes=1 << 24)
    server = SimpleNamespace(cycle_telemetry=Telemetry.off(), draining=asyncio.Event(), settings=settings)
    vocabulary = SimpleNamespace(
        size=runtime.vocabulary_size, end_of_generation=frozenset({END}), suppressed=frozenset()
    )
    info = common_pb2.ModelInfo(
        context_length=runtime.context_length, max_draft_tokens=MAX_DRAFT_TOKENS, exact_mode=exact_mode
    )
    templates = ChatTemplates({}, cast(Any, vocabulary))
    return TargetServicer(cast(Any, server), cast(Any, vocabulary), engine, info, templates)
