"""Versions of what is installed; a source tree that was never installed has none."""

from importlib.metadata import PackageNotFoundError, version


def version_of(distribution: str) -> str:
    """Return the version of an installed distribution, "unknown" where there is no metadata of it."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


# Read once: a call must not fail because the installation is being replaced.
VERSION = version_of("outrider")
