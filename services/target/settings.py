"""Settings of the target service."""

from typing import ClassVar

from pydantic import Field

from services.engine.settings import EngineSettings


class TargetSettings(EngineSettings, env_prefix="OUTRIDER_TARGET_"):
    """Flags of `python -m services.target`, and variables that start with OUTRIDER_TARGET_."""

    program: ClassVar[str] = "python -m services.target"
    port: int = Field(50052, ge=0, le=65535, description="port to listen on; 0 takes a free one, which is printed")
