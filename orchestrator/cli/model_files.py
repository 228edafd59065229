"""The model files that a user names, by path, on the Hugging Face hub, or in one word."""

import stat
from pathlib import Path

from orchestrator.cli.hub import SCHEME, HubFile, fetch
from orchestrator.stack.bundled import bundled_pair
from orchestrator.stack.named import NAMED_MODELS
from services.frame.program.output import say
from services.frame.program.startup import StartupError


def find_pair(target: str | None, draft: str | None, *, wants_draft: bool) -> tuple[Path, Path | None]:
    """Return the files of target and draft, of the default pair where no target is named.

    A draft that is not there is done without, and stderr says so: it decides the speed and nothing else. Raises
    StartupError.
    """
    if not wants_draft:
        draft = None
    if target is None:
        if draft is not None:
            raise StartupError(
                "--draft (or DRAFT_MODEL_PATH) needs --target (or TARGET_MODEL_PATH): the two must share a tokenizer"
            )
        bundled_target, bundled_draft = bundled_pair()
        return bundled_target, bundled_draft if wants_draft else None
    target_path = find_model(target)
    if draft is not None and _is_path(draft) and _mode(Path(draft)) is None:
        say("outrider", f"there is no draft model {draft}: going on without one")
        draft = None
    return target_path, None if draft is None else find_model(draft)


def find_model(name: str) -> Path:
    """Return the file of a model, fetched if need be: `name` is a path, an `hf:` name, or one of NAMED_MODELS.

    Raises StartupError.
    """
    if name in NAMED_MODELS:
        return NAMED_MODELS[name].find()
    path = fetch(HubFile.parse(name)) if name.startswith(SCHEME) else Path(name)
    mode = _mode(path)
    if mode is None or not stat.S_ISREG(mode):
        # What has neither folder nor ending was meant as a word, or could have been.
        words = f", and the models that go by one word are {', '.join(NAMED_MODELS)}" if name.isidentifier() else ""
        raise StartupError(f"there is no model file {path}{words}")
    return path


def _is_path(name: str) -> bool:
    return not name.startswith(SCHEME) and name not in NAMED_MODELS


def _mode(path: Path) -> int | None:
    """Return what kind of file a path is, None where there is nothing. Raises StartupError where nobody may know."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartupError(f"cannot read model {path}: {reason}") from error
