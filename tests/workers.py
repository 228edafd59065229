"""What the processes of one test run share."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder of all processes of this run that `make` has filled, which the first of them calls.

    Where it skips the test or fails, the next one tries again.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_made = shared / f"{name}.made"
        if not is_made.exists():
            folder = factory.mktemp(name)
            make(folder)
            is_made.write_text(str(folder))
        return Path(is_made.read_text())
