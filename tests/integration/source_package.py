"""The source package of llama-cpp-python, which has vocabularies and chat templates of known models."""

import os
import tarfile
from pathlib import Path

import pytest

SOURCE = os.environ.get("LLAMA_CPP_PYTHON_SOURCE", "")
needs_source = pytest.mark.skipif(
    not SOURCE,
    reason="LLAMA_CPP_PYTHON_SOURCE does not name llama-cpp-python's source package, packed or unpacked: "
    "`pip download --no-deps --no-binary llama-cpp-python llama-cpp-python` fetches it",
)


def models_folder(scratch: Path) -> Path:
    """Return the folder with vocabularies and templates, unpacked to `scratch` where need be."""
    folder = Path(SOURCE)
    if folder.is_file():
        with tarfile.open(folder) as archive:
            wanted = [member for member in archive if "vendor/llama.cpp/models/" in member.name]
            archive.extractall(scratch, wanted, filter="data")
        folder = scratch
    return next(folder.glob("**/vendor/llama.cpp/models"))
