"""A tiny model to expand."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.tiny import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny.gguf", dim=64, num_layers=2, ffn=128)
