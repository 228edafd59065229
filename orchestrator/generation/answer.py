"""Answers of chats, parted into what the model says and what it thinks."""

from collections.abc import Mapping
from typing import TypeAlias

from outrider.v1 import target_pb2

Part: TypeAlias = "target_pb2.AnswerPart.ValueType"

_CONTENT = target_pb2.ANSWER_PART_CONTENT
_REASONING = target_pb2.ANSWER_PART_REASONING


class Answer:
    """Parts one answer as it comes. Text is held back while it may be the beginning of a marker.

    The line breaks between a marker and what it begins, and those at the end of a thought, belong to the frame.
    """

    def __init__(self, form: target_pb2.AnswerFormat, spellings: Mapping[int, str] | None = None) -> None:
        """Part by the markers of `form`; `spellings` are those of tokens that add nothing to the text."""
        self._markers = sorted(((m.text, m.begins) for m in form.markers), key=lambda marker: -len(marker[0]))
        self._spellings = spellings or {}
        self._part: Part = form.first or _CONTENT
        self._held = ""
        self._follows_marker = False
        self._ready: dict[Part, list[str]] = {_CONTENT: [], _REASONING: []}

    def feed(self, text: str, token: int | None = None) -> None:
        """Go on with a text, and with what `token`, that brought it, is spelled like where it is a marker's."""
        self._held += text + ("" if token is None else self._spellings.get(token, ""))
        self._part_held(is_last=False)

    def drain(self) -> tuple[str, str]:
        """Return the content and the reasoning that are certain since the last time."""
        content, reasoning = ["".join(self._ready[part]) for part in (_CONTENT, _REASONING)]
        for texts in self._ready.values():
            texts.clear()
        return content, reasoning

    def finish(self) -> tuple[str, str]:
        """Return the rest of both."""
        self._part_held(is_last=True)
        return self.drain()

    def _part_held(self, *, is_last: bool) -> None:
        while (found := self._next_marker(is_last=is_last)) is not None:
            start, marker, begins = found
            self._tell(start, ends_part=True)
            self._held = self._held[len(marker) :]
            self._part, self._follows_marker = begins, True
        self._tell(len(self._held) - (0 if is_last else self._num_undecided()), ends_part=is_last)

    def _next_marker(self, *, is_last: bool) -> tuple[int, str, Part] | None:
        """Return the first marker and where it begins, unless a longer one may still come of it."""
        found = [(start, text, begins) for text, begins in self._markers if (start := self._held.find(text)) >= 0]
        # The longest comes first among those that begin together.
        first = min(found, key=lambda match: match[0], default=None)
        if first is None or is_last:
            return first
        rest = self._held[first[0] :]
        return None if any(len(text) > len(rest) and text.startswith(rest) for text, _ in self._markers) else first

    def _num_undecided(self) -> int:
        """Return the length of what is to be held back: it may become a marker, or precede one."""
        longest = max((len(text) for text, _ in self._markers), default=0)
        lengths = range(min(len(self._held), longest), 0, -1)
        may_grow = (n for n in lengths if any(text.startswith(self._held[-n:]) for text, _ in self._markers))
        length = next(may_grow, 0)
        if self._part == _REASONING:
            before = self._held[: len(self._held) - length]
            length += len(before) - len(before.rstrip("\n"))
        return length

    def _tell(self, length: int, *, ends_part: bool) -> None:
        text, self._held = self._held[:length], self._held[length:]
        if self._follows_marker:
            text = text.lstrip("\n")
            self._follows_marker = not text
        if ends_part and self._part == _REASONING:
            text = text.rstrip("\n")
        if text and self._part in self._ready:
            self._ready[self._part].append(text)


def marker_spellings(form: target_pb2.AnswerFormat, silent: Mapping[int, str]) -> dict[int, str]:
    """Return those of `silent`, the spellings of tokens that add nothing to the text, that are part of a marker."""
    markers = "\n".join(marker.text for marker in form.markers)
    return {token: text for token, text in silent.items() if len(text) > 1 and text in markers}
