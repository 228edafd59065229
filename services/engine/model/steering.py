"""Tokens that steer a model, and texts parted so that they spell none of them."""

import re
from collections.abc import Iterable, Iterator

# What opens and closes turns, channels, thoughts and tool calls: <|im_start|>, <|channel>, <tool_call>, [INST].
_MARKER = re.compile(r"[<\[\]◁][^\s<>]*[^\W\d_][^\s<>]*[>\]▷]")
# Those that nothing but a chat contains, so that even an ordinary token is one.
_PLAIN_MARKER = re.compile(
    r"<[|\uff5c][^\s<>]+>|<[^\s<>]+[|\uff5c]>|</?(?:think|tool_call|tool_response|(?:start|end)_of_turn)>|\[/?(?:INST|THINK)\]"
)
# What some vocabularies have a token for, and no model is steered by.
_HTML = re.compile(
    r"</?(?:a|b|blockquote|body|br|caption|code|col|div|dl|d[dt]|em|h[1-6r]|head|html|i|img|li|ol|p|pre|s|span|strong|"
    r"su[bp]|table|tbody|t[dhr]|tfoot|thead|title|u|ul)/?>"
)
# A spelling is followed so many branchings deep; a regular expression cannot be nested without end.
_DEEPEST = 40
# Characters that are searched at once, which takes a fraction of a millisecond. Python lets nobody else run meanwhile.
_SEARCHED = 4096
# A regular expression that matches nowhere.
_NOTHING = r"(?!)"


def is_marker(spelling: str) -> bool:
    """Whether a token is spelled like one that steers, and is no HTML."""
    return _MARKER.fullmatch(spelling) is not None and _HTML.fullmatch(spelling) is None


def is_plain_marker(spelling: str) -> bool:
    """Whether a token is spelled like one that steers and like nothing else."""
    return _PLAIN_MARKER.fullmatch(spelling) is not None


class Spellings:
    """Finds where any of some spellings begins, in a time that does not grow with their number."""

    def __init__(self, spellings: Iterable[str]) -> None:
        """Take spellings; those of one character are left out, as no text can be parted within them."""
        all_of_them = sorted({spelling for spelling in spellings if len(spelling) > 1})
        wanted = _without_longer(all_of_them)
        self._pattern = re.compile(_tree(wanted, 0) if wanted else _NOTHING)
        self._all = frozenset(all_of_them)
        self._lengths = sorted({len(spelling) for spelling in all_of_them}, reverse=True)
        self._longest = max(self._lengths, default=0)
        self._beginnings = {spelling[:length] for spelling in all_of_them for length in range(1, len(spelling))}
        self._ends = {spelling[length:] for spelling in all_of_them for length in range(1, len(spelling))}

    def parts(self, text: str) -> list[str]:
        """Part a text after the first character of every spelling, those that overlap included."""
        ends = [start + 1 for start in self._starts(text)]
        return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]

    def split(self, text: str) -> list[str]:
        """Return what is between the spellings of a text, and these, by turns; the longest of a place counts."""
        pieces, end = [], 0
        for start in self._starts(text):
            if start < end:
                continue
            length = next(length for length in self._lengths if text[start : start + length] in self._all)
            pieces += [text[end:start], text[start : start + length]]
            end = start + length
        return [*pieces, text[end:]]

    def begins_at_end(self, text: str) -> bool:
        """Whether what follows the text could make a spelling of its end."""
        return any(text[-length:] in self._beginnings for length in range(1, min(len(text), self._longest) + 1))

    def ends_at_start(self, text: str) -> bool:
        """Whether what precedes the text could make a spelling of its start."""
        return any(text[:length] in self._ends for length in range(1, min(len(text), self._longest) + 1))

    def _starts(self, text: str) -> Iterator[int]:
        first = 0
        while first < len(text):
            match = self._pattern.search(text, first, first + _SEARCHED + self._longest)
            # What begins later may be cut off there: another one may begin before it.
            if match is None or match.start() >= first + _SEARCHED:
                first += _SEARCHED
            else:
                yield match.start()
                first = match.start() + 1


def _without_longer(spellings: Iterable[str]) -> list[str]:
    """Leave out, of sorted spellings, those that begin with another one: it is found where they are."""
    kept: list[str] = []
    for spelling in spellings:
        if not kept or not spelling.startswith(kept[-1]):
            kept.append(spelling)
    return kept


def _tree(spellings: list[str], depth: int) -> str:
    """Return a regular expression for sorted spellings, none of which begins another. It tries each character once."""
    if len(spellings) == 1 or depth == _DEEPEST:
        return "|".join(map(re.escape, spellings))
    length = _common(spellings[0], spellings[-1])
    branches: dict[str, list[str]] = {}
    for spelling in spellings:
        branches.setdefault(spelling[length], []).append(spelling[length:])
    tree = "|".join(_tree(branch, depth + 1) for branch in branches.values())
    return f"{re.escape(spellings[0][:length])}(?:{tree})"


def _common(first: str, second: str) -> int:
    """Return how many characters two texts begin with alike."""
    return next((i for i, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), len(first))
