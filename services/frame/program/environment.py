"""Variables of the environment. One without a value is not set: compose and Kubernetes pass them on like that."""

import os


def set_default(name: str, value: str) -> None:
    """Set a variable for a library, unless it is set."""
    if not os.environ.get(name):
        os.environ[name] = value


def unset_empty(prefix: str) -> None:
    """Unset the variables with this prefix that have no value, as a library would read them as set."""
    for name, value in list(os.environ.items()):
        if name.startswith(prefix) and not value:
            del os.environ[name]
