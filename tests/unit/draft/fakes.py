"""DraftService over the fake model, without a wire."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from outrider.v1 import common_pb2
from services.draft.servicer import DraftServicer
from services.engine.runtime.interface import Runtime
from services.engine.scheduling.engine import Engine
from services.frame.telemetry import Telemetry

MAX_DRAFT_TOKENS = 8


def fake_draft(engine: Engine, runtime: Runtime) -> DraftServicer:
    """A servicer whose model never ends a generation."""
    server = SimpleNamespace(cycle_telemetry=Telemetry.off(), draining=asyncio.Event())
    vocabulary = SimpleNamespace(size=runtime.vocabulary_size, end_of_generation=frozenset(), suppressed=frozenset())
    info = common_pb2.ModelInfo(context_length=runtime.context_length, max_draft_tokens=MAX_DRAFT_TOKENS)
    return DraftServicer(cast(Any, server), cast(Any, vocabulary), engine, info)
