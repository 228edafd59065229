"""A text that comes in pieces, and steps of reading it that wait until they know what comes."""

import re
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

from orchestrator.generation.json_scanner import WHITE_SPACE, JsonScanner, NotJsonError

# A step of reading. It waits for more text wherever it yields.
Read: TypeAlias = Generator[None, None, Any]


class UnexpectedTextError(Exception):
    """Something else comes than what has to, or nothing any more."""


class Pieces:
    """What came of a text: what is left to be read, and what was read since it was last forgotten.

    What a step takes depends on the text alone, not on its pieces.
    """

    def __init__(self) -> None:
        self.left = ""
        self._taken: list[str] = []
        self._is_last = False

    def add(self, text: str, *, is_last: bool) -> None:
        """Go on with a text; nothing follows what `is_last`."""
        self.left += text
        self._is_last = is_last

    @property
    def taken(self) -> str:
        """What was read since it was last forgotten."""
        return "".join(self._taken)

    def forget(self) -> None:
        """Forget what was read."""
        self._taken.clear()

    def take(self, length: int) -> str:
        """Read so many characters, which are there."""
        taken, self.left = self.left[:length], self.left[length:]
        self._taken.append(taken)
        return taken

    def waits(self) -> Read:
        """Wait for more. Raises UnexpectedTextError where nothing follows."""
        if self._is_last:
            raise UnexpectedTextError
        yield

    def space(self) -> Read:
        """Take white space, perhaps none, up to something else or the end."""
        while True:
            self.take(len(self.left) - len(self.left.lstrip(WHITE_SPACE)))
            if self.left or self._is_last:
                return
            yield

    def is_next(self, *texts: str) -> Read:
        """Whether one of these comes next."""
        while not self._is_last and any(len(self.left) < len(t) and t.startswith(self.left) for t in texts):
            yield
        return self.left.startswith(texts)

    def takes(self, text: str) -> Read:
        """Take this if it comes next, and return whether it does."""
        if is_next := (yield from self.is_next(text)):
            self.take(len(text))
        return is_next

    def expects(self, text: str) -> Read:
        """Take this. Raises UnexpectedTextError where something else comes."""
        if not (yield from self.takes(text)):
            raise UnexpectedTextError

    def run_of(self, characters: re.Pattern[str], most: int) -> Read:
        """Take all characters that match, at most so many; something that does not is there."""
        while True:
            match = characters.match(self.left)
            length = match.end() if match else 0
            if length > most:
                raise UnexpectedTextError
            if length < len(self.left):
                return self.take(length)
            yield from self.waits()

    def until(self, text: str, most: int) -> Read:
        """Return what precedes this, at most so many characters, and take both."""
        while (end := self.left.find(text)) < 0:
            if len(self.left) >= most + len(text):
                raise UnexpectedTextError
            yield from self.waits()
        if end > most:
            raise UnexpectedTextError
        before = self.take(end)
        self.take(len(text))
        return before

    def json_value(self, begins: str = "", tell: Callable[[str], None] = lambda piece: None) -> Read:
        """Take a JSON value that begins so, and return it; its pieces are told as they come."""
        if not (yield from self.is_next(begins)):
            raise UnexpectedTextError
        scanner, pieces = JsonScanner(), []
        while True:
            try:
                piece = self.take(scanner.feed(self.left))
            except NotJsonError as error:
                tell(self.take(error.position))
                raise UnexpectedTextError from error
            pieces.append(piece)
            tell(piece)
            if scanner.is_complete:
                return "".join(pieces)
            yield from self.waits()
