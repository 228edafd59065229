"""The texts that `outrider generate` and `outrider chat` are given: read, and refused where they cannot be sent."""

import sys
from pathlib import Path

from outrider.v1 import generation_pb2
from services.frame.program.settings import DEFAULT_MAX_MESSAGE_BYTES
from services.frame.program.startup import StartupError

# Of the largest message that the command line sends, whatever the orchestrator takes.
MOST_BYTES = DEFAULT_MAX_MESSAGE_BYTES


def valid_text(text: str, name: str) -> str:
    """Return a text that can be sent; `name` says what it is. Raises StartupError for one that is empty or no text."""
    if not text:
        raise StartupError(f"{name} is empty: give it a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise StartupError(f"{name} is not valid UTF-8") from error
    return text


def read_prompt(prompt: str | None, path: str | None) -> str:
    """Return the text to go on with: as it is, that of stdin for `-`, or that of a file, without the last newline.

    Raises StartupError.
    """
    if (prompt is None) == (path is None):
        raise StartupError("give one of them: a PROMPT, - for that of stdin, or --file with the name of a file")
    source = path or prompt or ""
    if path is None and source != "-":
        return valid_text(source, "the prompt")
    text = _read(source, "the prompt", is_stdin=source == "-")
    return valid_text(text.removesuffix("\n").removesuffix("\r"), "the prompt")


def read_prediction(path: str) -> generation_pb2.Prediction:
    """Return the text of a file, which may be empty, as what is expected. Raises StartupError."""
    return generation_pb2.Prediction(text=_read(path, "the prediction"))


def _read(path: str, what: str, *, is_stdin: bool = False) -> str:
    """Return the text of a file or of stdin; `what` says what it is. Raises StartupError."""
    try:
        content = _read_stdin() if is_stdin else _read_file(path)
        if len(content) > MOST_BYTES:
            raise StartupError(f"{what} has more than the {MOST_BYTES} bytes that a request may have")
        return content.decode()
    except UnicodeDecodeError as error:
        raise StartupError(f"{what} is not valid UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartupError(f"cannot read {what} {path}: {reason}") from error


# Neither may have an end: one byte too many is enough to know.
def _read_stdin() -> bytes:
    # None where it was closed before the start.
    return sys.stdin.buffer.read(MOST_BYTES + 1) if sys.stdin else b""


def _read_file(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(MOST_BYTES + 1)
