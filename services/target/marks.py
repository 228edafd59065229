"""What callers say, marked so that no part of it is read as a control token, whatever it spells."""

import json
import re
from collections.abc import Mapping
from typing import Any

from services.engine.model.steering import Spellings

# Part spellings of control tokens that a message happens to contain; no text of a chat holds them. What follows the
# first of them is the message's own up to the next mark, what follows the second may be the template's.
_WITHIN, _LAST = "\ufdd0", "\ufdd1"
# Where a prompt ends that goes on with its last message.
END = "\ufdd2"
_MARKS = re.compile(f"([{_WITHIN}{_LAST}])")
_ANY = re.compile(f"[{_WITHIN}{_LAST}{END}]")
_NOT_ASCII = re.compile(f"[^\x00-\x7f{_WITHIN}{_LAST}{END}]")
# What templates look for in tools and calls, which spells nothing as it stands.
_KEYS = frozenset(
    {
        *("id", "type", "function", "name", "description", "parameters", "arguments"),
        *("properties", "required", "items", "enum", "default", "title", "format", "nullable", "return"),
        *("anyOf", "oneOf", "allOf", "additionalProperties"),
    }
)


class Given(list[Any]):
    """A list that a caller gave: templates may only change their own."""


class Marks:
    """Marks texts of callers for one vocabulary."""

    def __init__(self, spellings: Spellings) -> None:
        self._spellings = spellings

    def mark(self, text: str, *, is_alone: bool = True) -> str:
        """Part every spelling of a token that steers after its first character, those that overlap included.

        So is the text from the template's, where the two together could spell one, unless that is meant.
        """
        text = _ANY.sub("\ufffd", text)
        before = [""] if is_alone and self._spellings.ends_at_start(text) else []
        after = [""] if is_alone and self._spellings.begins_at_end(text) else []
        first, *others = [*before, *self._spellings.parts(text), *after]
        if not others:
            return first
        return _WITHIN.join([first, *others[:-1]]) + _LAST + others[-1]

    def mark_all(self, value: object) -> object:
        """Mark all texts within a value of JSON."""
        match value:
            case str():
                return self.mark(value)
            case list():
                return Given(self.mark_all(item) for item in value)
            case dict():
                return {self._key(key): self.mark_all(item) for key, item in value.items()}
            case _:
                return value

    def _key(self, key: str) -> str:
        return key if key in _KEYS else self.mark(key)


def parted(rendered: str) -> list[tuple[str, bool]]:
    """Return the parts of a rendered text, and whether control tokens are read in each.

    What is wholly a caller's is not searched for the many tokens that it cannot have.
    """
    text, *rest = _MARKS.split(rendered)
    return [(text, True), *((part, mark == _LAST) for mark, part in zip(rest[::2], rest[1::2], strict=True))]


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON with the marks as they are. The filter that templates are written for; jinja2's escapes for HTML."""
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys, default=_list_of
    )
    return _NOT_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], text) if ensure_ascii else text


def _list_of(value: object) -> list[Any]:
    """Return what a filter such as `map` gives as a list. Raises TypeError for all else."""
    if isinstance(value, Mapping) or not hasattr(value, "__next__"):
        raise TypeError(f"{type(value).__name__} is no JSON")
    return list(value)  # type: ignore[call-overload,no-any-return]
