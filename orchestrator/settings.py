"""Settings of the orchestrator."""

from typing import ClassVar

from pydantic import Field

from services.frame.settings import PeerTlsSettings, ServerSettings


class OrchestratorSettings(ServerSettings, PeerTlsSettings, env_prefix="OUTRIDER_ORCHESTRATOR_"):
    """Flags of `python -m orchestrator`, and variables that start with OUTRIDER_ORCHESTRATOR_."""

    program: ClassVar[str] = "python -m orchestrator"
    port: int = Field(50050, ge=0, le=65535, description="port to listen on; 0 takes a free one, which is printed")
    target: str = Field("127.0.0.1:50052", min_length=1, description="address of the target service")
    draft: str = Field("", description="address of the draft service; empty is plain decoding")
    num_draft_tokens: int = Field(4, ge=0, le=64, description="draft tokens of a cycle where a request names none")
    draft_timeout_s: float = Field(1.0, gt=0, le=60, description="seconds that a draft is waited for")
    draft_retry_s: float = Field(1.0, gt=0, le=60, description="seconds between tries to reach a draft that failed")
    target_patience_s: float = Field(10.0, ge=0, le=600, description="seconds that a target that is away is waited for")
