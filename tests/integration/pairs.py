"""The bundled pair, so written that tests can compare texts."""

from pathlib import Path

from models.llama_gguf import read_llama, write_llama
from orchestrator.stack.bundled import bundled_pair


def write_pair_as_f32(folder: Path) -> tuple[Path, Path]:
    """Write the bundled pair with its weights as F32: without `exact`, rounding then hardly ever flips a choice."""
    for path in bundled_pair():
        write_llama(folder / path.name, *read_llama(path), name=f"outrider-{path.stem}", file_type="F32")
    return folder / "target.gguf", folder / "draft.gguf"
