"""Downloads from the Hugging Face hub, and what to do where they fail. It takes huggingface_hub, which is an extra."""

import logging
from collections.abc import Sequence
from pathlib import Path

import httpx2
from huggingface_hub import constants, errors, get_hf_file_metadata, get_session, hf_hub_download, hf_hub_url

from services.frame.program.startup import StartupError

_FORBIDDEN = (401, 403)
_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500

# It tells of every request.
logging.getLogger("httpx2").setLevel(logging.WARNING)


def download(repo: str, names: Sequence[str], revision: str | None) -> Path:
    """Return where the first of these files of a repository lies; what is not cached is fetched.

    Where the hub does not answer, or says that it cannot, what is cached is good enough. Raises StartupError.
    """
    # As the library leaves it where neither HOME nor the system knows of one.
    if constants.HF_HUB_CACHE.startswith("~"):
        raise StartupError("there is no home folder to keep models in: set HF_HOME to a folder that can be written")
    name = names[0]
    where = f"{repo} of {constants.ENDPOINT}"
    complaint = ""
    try:
        complaint = _complaint(hf_hub_url(repo, name, revision=revision))
        # Asked for by itself a file that cannot be reached is tried again for half a minute.
        paths = [hf_hub_download(repo, each, revision=revision, local_files_only=bool(complaint)) for each in names]
    except errors.LocalEntryNotFoundError as error:
        reason = complaint or _sentence(error)
        raise StartupError(f"{name} is not cached and {constants.ENDPOINT} does not answer: {reason}") from error
    except errors.HfHubHTTPError as error:
        raise StartupError(_refused(error, name, where, revision)) from error
    except (errors.XetDownloadError, httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise StartupError(f"{name} cannot be fetched from {where}: {_sentence(error)}") from error
    except OSError as error:
        raise StartupError(f"{name} cannot be fetched from {where}: {_of_disk(error)}") from error
    return Path(paths[0])


def _complaint(url: str) -> str:
    """Ask for a file once. Return why there is no answer for now; empty where there is one."""
    try:
        # It reads what the environment says of proxies and certificates.
        get_session()
    except ImportError:
        return "a SOCKS proxy needs the package socksio: pip install socksio"
    except OSError as error:
        return f"SSL_CERT_FILE or SSL_CERT_DIR cannot be used: {error.strerror}"
    try:
        get_hf_file_metadata(url)
    except (errors.OfflineModeIsEnabled, httpx2.TransportError) as error:
        return _sentence(error)
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status != _TOO_MANY_REQUESTS and status < _SERVER_ERROR:
            raise
        return f"{status} {error.response.reason_phrase}"
    return ""


def _refused(error: errors.HfHubHTTPError, name: str, where: str, revision: str | None) -> str:
    """Word what the hub refuses, and what can be done about it."""
    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        problem = f"{where} must be asked for there, and HF_TOKEN must be set"
    elif isinstance(error, errors.RepositoryNotFoundError):
        problem = f"there is no {where}, or it is private and HF_TOKEN is not the right one"
    elif isinstance(error, errors.RevisionNotFoundError):
        problem = f"there is no revision {revision} in {where}"
    elif isinstance(error, errors.EntryNotFoundError):
        problem = f"there is no file {name} in {where}"
    elif status in _FORBIDDEN:
        problem = f"{name} cannot be fetched from {where}, which says {status}: set HF_TOKEN to one that may read it"
    else:
        problem = f"{name} cannot be fetched from {where}: {_sentence(error)}"
    return problem + (", or HF_HUB_OFFLINE=1 to use what is cached" if status in _FORBIDDEN else "")


def _of_disk(error: OSError) -> str:
    """Word what went wrong with the cache. A download of the wrong size is an error of this kind too."""
    if error.errno is None:
        return _sentence(error)
    place = error.filename or constants.HF_HUB_CACHE
    return f"{error.strerror} ({place}): set HF_HOME to a folder that can be written and has room"


def _sentence(error: Exception) -> str:
    """Return the first line, which says what happened; the others have advice for those who call the library."""
    lines = str(error).splitlines()
    return lines[0].rstrip(". ") if lines and lines[0] else type(error).__name__
