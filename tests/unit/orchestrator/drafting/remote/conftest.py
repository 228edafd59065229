"""Drafts of which none is late."""

import pytest

from orchestrator.drafting import patience
from tests.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def _patient_with_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No draft is late because the machine is busy."""
    monkeypatch.setattr(patience, "LEAST_S", PATIENCE_S)
