"""Prose in a terminal as it comes, with lines that end between words."""

import re
from collections.abc import Callable

from rich.cells import cell_len

# A word, the blanks between two, or an end of line.
_PARTS = re.compile(r"\n|[^\S\n]+|\S+")
_FENCE = "```"
_TAB = 8


class WordWrap:
    """Writes text through `write(text, style)`, a word at a time, and begins a line where one would not fit.

    A word may come in pieces of several styles. It is written when what follows it has come, when it is as long as a
    line, or with `flush`; wide characters need no blanks between them. Lines between fences of three backticks are
    code, and stay whole.
    """

    def __init__(self, write: Callable[[str, str], None], width: Callable[[], int]) -> None:
        """`width` tells how many columns there are; it is asked anew for each word, as windows change."""
        self._write = write
        self._width = width
        self._column = 0
        self._word: list[tuple[str, str]] = []
        self._blanks: list[tuple[str, str]] = []
        self._line_begins_with = ""
        self._is_code = False

    def add(self, text: str, style: str) -> None:
        """Write what is complete by now of all that has been added."""
        for part in _PARTS.findall(text):
            if part.isspace():
                self._end_word()
                if part == "\n":
                    self._end_line(style)
                else:
                    self._blanks.append((part, style))
            else:
                self._word.append((part, style))
                if cell_len(part) > len(part) or cell_len(_joined(self._word)) >= self._width():
                    self._end_word()

    def flush(self) -> None:
        """Write what is left."""
        self._end_word()
        self._put(self._blanks)

    def _end_word(self) -> None:
        if not self._word:
            return
        blanks, word = self._blanks, self._word
        end = self._after(_joined(blanks) + _joined(word))
        # The blanks before the word become the end of a line; those at the beginning of one indent it.
        if end > self._width() and self._column and blanks and not self._is_code:
            self._write("\n", "")
            self._column = 0
            blanks.clear()
        if not self._column and not self._line_begins_with:
            self._line_begins_with = _joined(word)
        self._put(blanks)
        self._put(word)

    def _end_line(self, style: str) -> None:
        self._put(self._blanks)
        self._write("\n", style)
        self._column = 0
        if self._line_begins_with.startswith(_FENCE):
            self._is_code = not self._is_code
        self._line_begins_with = ""

    def _put(self, parts: list[tuple[str, str]]) -> None:
        for text, style in parts:
            self._write(text, style)
            self._column = self._after(text)
        parts.clear()

    def _after(self, text: str) -> int:
        """Return the column after a text without an end of line, were there no other."""
        column = self._column
        for piece in re.split(r"(\t)", text):
            column = column // _TAB * _TAB + _TAB if piece == "\t" else column + cell_len(piece)
        return column


def _joined(parts: list[tuple[str, str]]) -> str:
    return "".join(text for text, _ in parts)
