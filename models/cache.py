"""Where what was made or measured is kept: the user's cache folder."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from models.command import CommandError


def cache_folder() -> Path:
    """The folder, which need not exist. Raises CommandError where neither HOME nor the system knows of a home."""
    try:
        folder = platformdirs.user_cache_path("outrider")
    except RuntimeError:  # newer platformdirs say so themselves
        folder = Path()
    if not folder.is_absolute():
        raise CommandError("there is no home folder to keep files in: set XDG_CACHE_HOME, or name a place of your own")
    return folder
