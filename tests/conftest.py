"""What every test can rely on: an environment without settings of ours, and reproducible examples of Hypothesis."""

import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.environment import hide_settings

# A shell starts what runs in its background with interrupts ignored, and programs under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Before gRPC starts, which would tell of every server that says goodbye.
os.environ["GRPC_VERBOSITY"] = "ERROR"

# Time limits would make results depend on the machine; the same examples everywhere make a failure everybody's.
settings.register_profile(
    "outrider", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("outrider")


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Programs that run within a test set it up for their whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_settings(monkeypatch)
