"""The model pair that is used where none is named."""

from importlib.util import find_spec
from pathlib import Path

from services.frame.program.startup import StartupError


def bundled_pair() -> tuple[Path, Path]:
    """Return the paths of target and draft. Raises StartupError where this installation holds no pair."""
    spec = find_spec("models")
    if spec and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]) / "pair"
        target, draft = folder / "target.gguf", folder / "draft.gguf"
        if target.is_file() and draft.is_file():
            return target, draft
    raise StartupError("no model pair is installed here: name models with --target and --draft")
