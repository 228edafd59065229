"""The state of the orchestrator, as GetStatus tells it."""

from importlib.metadata import Distribution, PackageNotFoundError, version
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.drafting.experience import Experience
from orchestrator.generation.service import GenerationService
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import generation_pb2
from services.frame.telemetry import Telemetry


def service() -> GenerationService:
    """One without a target or a draft."""
    backend: Any = SimpleNamespace(
        target=SimpleNamespace(status=generation_pb2.ServiceStatus),
        drafts=[],
        usual_drafter=lambda drafter: generation_pb2.DRAFTER_NONE,
        draft_overhead=lambda: 0.0,
        experience=Experience(),
    )
    return GenerationService(OrchestratorSettings(), backend, Telemetry.off())


def test_an_installation_that_is_gone_fails_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = version("outrider")

    def find(name: str) -> Distribution:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(Distribution, "from_name", find)
    assert service().status().version == installed
