import pytest

from orchestrator.peers import patient_session


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services that are away are tried again at once."""
    monkeypatch.setattr(patient_session, "_FIRST_RETRY_S", 0.0)
