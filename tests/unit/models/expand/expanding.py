"""Small expansions."""

from __future__ import annotations

from pathlib import Path

from models.expand.expansion import Expansion
from models.expand.shape import Shape

SHAPE = Shape(dim=160, num_layers=3, ffn=192)
BLOCK_SHAPE = Shape(dim=256, num_layers=3, ffn=512)


def ignore_progress(_task: str, _share: float) -> None:
    pass


def expanded(model: Path, output: Path, shape: Shape, file_type: str = "F32", *, seed: int = 0) -> Path:
    Expansion.plan(model, shape, file_type, seed=seed).write(output, ignore_progress)
    return output


SIZES = ["--dim", "160", "--layers", "3", "--ffn", "192", "--type", "F32"]
