"""The model pair that is used where none is named."""

from importlib.util import find_spec
from pathlib import Path

from services.frame.startup import StartupError


def bundled_pair() -> tuple[Path, Path]:
    """Return target and draft of the pair in models/pair. Raises StartupError where it is not installed."""
    spec = find_spec("models")
    for folder in (spec and spec.submodule_search_locations) or ():
        target, draft = (Path(folder) / "pair" / name for name in ("target.gguf", "draft.gguf"))
        if target.is_file() and draft.is_file():
            return target, draft
    raise StartupError("no model pair is installed here: name models with --target and --draft")
