"""What the streams go on with: prompts of a kind, which come with the package, or those of files of the user's."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from services.frame.program.startup import StartupError

# Lines that part the prompts of a file.
_BETWEEN = re.compile(r"(?:\n%%)+(?:\n|\Z)")
# Of the kind `edits`: what was there before is expected to come again.
_EDITED = re.compile(r"# Before: .*?\n\n(.*?)\n\n# After: ", re.DOTALL)
KINDS = {"functions": "functions.txt", "edits": "edits.txt", "prose": "prose.txt", "chat": "chat.jsonl"}


@dataclass(frozen=True)
class Prompt:
    """A text to go on with, or a chat to answer, as pairs of role and content. `kind` is told with the results.

    `prediction` is what a caller expects as the answer, where that is known.
    """

    kind: str
    text: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    prediction: str = ""


def read_prompts(sources: Sequence[str]) -> list[Prompt]:
    """Return the prompts of kinds and files, one of each source after the other. Raises StartupError.

    A file that ends in `.jsonl` has an object a line, with `text`, or with `messages` that have `role` and `content`,
    and perhaps with a `prediction`. In any other file lines of %% part texts, each taken without its last newline.
    """
    groups = [_read(source) for source in sources]
    longest = max(map(len, groups))
    return [group[number] for number in range(longest) for group in groups if number < len(group)]


def for_streams(prompts: Sequence[Prompt], num_streams: int) -> list[Prompt]:
    """Return a prompt for each stream. Where there are fewer, they come again."""
    return [prompts[number % len(prompts)] for number in range(num_streams)]


def _read(source: str) -> list[Prompt]:
    if name := KINDS.get(source):
        text = files("orchestrator.bench.load").joinpath("prompts", name).read_text("utf-8")
        return [_expecting(prompt) for prompt in _parse(text, name, source)]
    try:
        text = Path(source).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise StartupError(f"the prompts in {source} are not valid UTF-8") from error
    except (OSError, ValueError) as error:
        kinds = ", ".join(KINDS)
        reason = getattr(error, "strerror", None) or error
        raise StartupError(f"cannot read prompts from {source} ({reason}): name a file, or one of {kinds}") from error
    return _parse(text, source, Path(source).stem)


def _expecting(prompt: Prompt) -> Prompt:
    edited = _EDITED.match(prompt.text)
    return replace(prompt, prediction=edited[1]) if edited else prompt


def _parse(text: str, name: str, kind: str) -> list[Prompt]:
    if name.endswith(".jsonl"):
        lines = [line for line in text.splitlines() if line.strip()]
        prompts = [_of_json(line, f"line {number} of {name}", kind) for number, line in enumerate(lines, 1)]
    else:
        parts = [part.removesuffix("\n") for part in _BETWEEN.split(f"\n{text}")]
        prompts = [Prompt(kind, part.removeprefix("\n") if number == 0 else part) for number, part in enumerate(parts)]
        prompts = [prompt for prompt in prompts if prompt.text.strip()]
    if not prompts:
        raise StartupError(f"there is no prompt in {name}")
    return prompts


def _prediction(fields: Mapping[Any, object]) -> str:
    prediction = fields.get("prediction", "")
    if not isinstance(prediction, str):
        raise TypeError("a prediction is a text")
    return prediction


def _of_json(line: str, place: str, kind: str) -> Prompt:
    try:
        match json.loads(line):
            case {"text": str(text), **more} if text:
                return Prompt(kind, text, prediction=_prediction(more))
            case {"messages": [_, *_] as messages, **more}:
                said = tuple((str(each["role"]), str(each["content"])) for each in messages)
                return Prompt(kind, messages=said, prediction=_prediction(more))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StartupError(f"{place} is no prompt: {error!r}") from error
    raise StartupError(f'{place} is no prompt: {{"text": ...}} or {{"messages": [{{"role": ..., "content": ...}}]}}')
