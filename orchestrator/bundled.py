"""The model pair that comes with the project."""

from importlib.util import find_spec
from pathlib import Path

from services.frame.startup import StartupError


def bundled_pair() -> tuple[Path, Path]:
    """Return the paths of target and draft. Raises StartupError where the pair was not installed."""
    spec = find_spec("models")
    for folder in spec.submodule_search_locations or () if spec else ():
        pair = Path(folder, "pair", "target.gguf"), Path(folder, "pair", "draft.gguf")
        if all(path.is_file() for path in pair):
            return pair
    raise StartupError("the bundled model pair is not installed here: name models with --target and --draft")
