"""The model pair that is used where none is named."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from platformdirs import user_cache_path

from services.frame.startup import StartupError

_FILES = ("target.gguf", "draft.gguf")


def bundled_pair() -> tuple[Path, Path]:
    """Return target and draft: the bundled pair, else a pair in a folder beside the checkout, else a random one.

    Says on stderr which one it is, where it is not the bundled one. Raises StartupError where there is none.
    """
    models = _models_folder()
    beside = models.parent.parent / "shared" / "lab-pair"
    if pair := _pair_in(models / "pair"):
        return pair
    if pair := _pair_in(beside):
        print(f"outrider: no pair is bundled yet, using the one in {beside}", file=sys.stderr)
        return pair
    return _random_pair()


def _models_folder() -> Path:
    spec = find_spec("models")
    if spec is None or not spec.submodule_search_locations:
        raise StartupError("no model pair is installed here: name models with --target and --draft")
    return Path(spec.submodule_search_locations[0])


def _pair_in(folder: Path) -> tuple[Path, Path] | None:
    target, draft = (folder / name for name in _FILES)
    return (target, draft) if target.is_file() and draft.is_file() else None


def _random_pair() -> tuple[Path, Path]:
    folder = user_cache_path("outrider", ensure_exists=True) / "random-pair"
    pair = _pair_in(folder)
    if pair is None:
        done = subprocess.run([sys.executable, "-m", "models.tiny", str(folder)], check=False)
        pair = _pair_in(folder)
        if done.returncode or pair is None:
            raise StartupError("no model pair is installed here: name models with --target and --draft")
    print("outrider: no pair is bundled yet, using a random one: its text means nothing", file=sys.stderr)
    return pair
