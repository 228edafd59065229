"""Model files from the Hugging Face hub: `hf:owner/repo/folder/file.gguf@revision`, kept in the hub's own cache.

HF_ENDPOINT, HF_TOKEN, HF_HOME and the other variables of huggingface_hub mean here what they mean there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from services.frame.program.environment import unset_empty
from services.frame.program.startup import StartupError

SCHEME = "hf:"
# llama.cpp is given the first part of a model in several files and finds the others beside it.
_PART = re.compile(r"-\d{5}-of-(?!0{5})(\d{5})\.gguf$")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; no revision is the main branch."""

    repo: str
    name: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> HubFile:
        """Read `hf:owner/repo/file.gguf`, with folders before the file and `@revision` after it where wanted.

        Raises StartupError for anything else.
        """
        path, at, revision = text.removeprefix(SCHEME).partition("@")
        parts = path.split("/")
        if len(parts) < 3 or not all(parts) or not path.endswith(".gguf") or bool(at) != bool(revision):
            raise StartupError(f"{text} is no hf:owner/repo/file.gguf, with @revision at its end where wanted")
        return cls("/".join(parts[:2]), "/".join(parts[2:]), revision or None)

    def parts(self) -> list[str]:
        """Return the names of all files of the model, the one that llama.cpp is given first."""
        match = _PART.search(self.name)
        if match is None:
            return [self.name]
        return [_PART.sub(f"-{number:05}-of-{match[1]}.gguf", self.name) for number in range(1, int(match[1]) + 1)]


def fetch(file: HubFile) -> Path:
    """Return where the file lies, after having fetched what is not cached yet, with a progress bar on stderr.

    Without the hub what is cached is good enough. Raises StartupError.
    """
    unset_empty("HF_")
    try:
        from orchestrator.cli.download import download  # noqa: PLC0415  an extra, which takes its time to import
    except ImportError as error:
        raise StartupError("models of hf: need huggingface_hub: pip install 'outrider[hub]'") from error
    except ValueError as error:
        raise StartupError(f"an HF_ variable has a value that huggingface_hub cannot read: {error}") from error
    return download(file.repo, file.parts(), file.revision)
