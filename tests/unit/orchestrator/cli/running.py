"""The command line in this process."""

import sys

import pytest

from orchestrator.cli import commands as cli


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `outrider` in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["outrider", *arguments])
    with pytest.raises(SystemExit) as info:
        cli.main()
    return int(info.value.code or 0)
