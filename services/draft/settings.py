"""Settings of the draft service."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from services.engine.startup.settings import EngineSettings


class DraftSettings(EngineSettings, env_prefix="OUTRIDER_DRAFT_"):
    """Flags of `outrider-draft`, and variables that start with OUTRIDER_DRAFT_."""

    program: ClassVar[str] = "outrider-draft"
    familiar_names: ClassVar[Mapping[str, str]] = {"DRAFT_MODEL_PATH": "model"}
    port: int = Field(50051, ge=0, le=65535, description="port to listen on; 0 takes a free one, which is printed")
