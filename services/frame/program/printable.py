"""Text of a model, a file or a peer, made safe to show: no terminal obeys it.

Terminals and viewers of logs act on more than ESC: U+009B begins a sequence too, and U+202E turns round what follows
it. Whatever acts is spelled as Python spells it, `\\x9b`, in characters that every encoding has; so is what an encoding
lacks, see `services.frame.program.output`.
"""

from __future__ import annotations

import re

# C0 except tab and line feed, DEL, C1, the separators of lines and paragraphs, overrides and isolates of direction, and
# surrogates, which stand for bytes that are no UTF-8.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text with tabs and line feeds as they are, and whatever else acts on a terminal spelled out."""
    return _ACTING.sub(_spelled, text)


def one_line(text: str) -> str:
    """Return printable text in one line: a line break of any kind, with the blanks around it, becomes one blank."""
    return printable(" ".join(filter(None, map(str.strip, text.splitlines()))))


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
