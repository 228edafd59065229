"""The requests that the docs show, as lines of curl, for clients to send."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_LINE = re.compile(r"^    (curl (?:.*\\\n)*.*)$", re.MULTILINE)
_PATH = re.compile(r"http://[^/\s]+(/\S+)")


def documented_requests() -> list[tuple[str, dict[str, Any]]]:
    """Return the path and the body of each request that README and docs/http.md show with a body."""
    texts = [(_ROOT / name).read_text() for name in ("README.md", "docs/http.md")]
    found = []
    for line in (line for text in texts for line in _LINE.findall(text)):
        words = shlex.split(line)
        (path,) = (match[1] for word in words if (match := _PATH.fullmatch(word)))
        found += [(path, json.loads(words[words.index("-d") + 1]))] if "-d" in words else []
    return found
