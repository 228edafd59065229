"""Model files from the Hugging Face hub: `hf:owner/repo/folder/file.gguf@revision`, kept in the hub's own cache.

HF_ENDPOINT, HF_TOKEN, HF_HOME and the other variables of huggingface_hub mean here what they mean there.
"""

# ruff: noqa: PLC0415  huggingface_hub is an extra, and takes its time to import

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

from services.frame.environment import unset_empty
from services.frame.startup import StartupError

SCHEME = "hf:"
# llama.cpp is given the first part of a model in several files and finds the others beside it.
_PART = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")

_SERVER_ERROR = 500


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
        import httpx2
        from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ImportError as error:
        raise StartupError("models of hf: need huggingface_hub: pip install 'outrider[hub]'") from error
    # It tells of every request.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    where = f"{file.repo} of {constants.ENDPOINT}"
    try:
        try:
            # A download that cannot reach the hub tries again for half a minute before it says so; this does not.
            get_hf_file_metadata(hf_hub_url(file.repo, file.parts()[0], revision=file.revision))
            complaint = ""
        except (errors.OfflineModeIsEnabled, httpx2.TransportError) as error:
            complaint = str(error)
        except errors.HfHubHTTPError as error:
            if error.response.status_code < _SERVER_ERROR:
                raise
            complaint = str(error)
        paths = [
            Path(hf_hub_download(file.repo, name, revision=file.revision, local_files_only=bool(complaint)))
            for name in file.parts()
        ]
    except errors.GatedRepoError as error:
        raise StartupError(f"{where} must be asked for there, and HF_TOKEN must be set") from error
    except errors.RepositoryNotFoundError as error:
        raise StartupError(f"there is no {where}, or it is private and HF_TOKEN is not the right one") from error
    except errors.RevisionNotFoundError as error:
        raise StartupError(f"there is no revision {file.revision} in {where}") from error
    except errors.LocalEntryNotFoundError as error:
        raise StartupError(
            f"{file.name} is not cached and {constants.ENDPOINT} does not answer: {complaint or error}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise StartupError(f"there is no file {file.name} in {where}") from error
    # RuntimeError: a user whose home folder is not known, and with it the cache.
    except (errors.HFValidationError, errors.XetDownloadError, httpx2.HTTPError, OSError, RuntimeError) as error:
        raise StartupError(f"{file.name} cannot be fetched from {where}: {error}") from error
    return paths[0]
