"""Settings of the target service."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from services.engine.startup.settings import EngineSettings


class TargetSettings(EngineSettings, env_prefix="OUTRIDER_TARGET_"):
    """Flags of `outrider-target`, and variables that start with OUTRIDER_TARGET_."""

    program: ClassVar[str] = "outrider-target"
    familiar_names: ClassVar[Mapping[str, str]] = {"TARGET_MODEL_PATH": "model"}
    port: int = Field(50052, ge=0, le=65535, description="port to listen on; 0 takes a free one, which is printed")
    exact: Literal["auto", "on", "off"] = Field(
        "auto",
        description="same text to the bit whatever else is served; auto takes it where it is nearly free",
    )
