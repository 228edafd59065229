"""JSON as it comes, character by character: where a value ends, and where a text stops being JSON."""

import json
import re
from collections.abc import Callable
from typing import NoReturn

WHITE_SPACE = " \t\r\n"

_STRING_RUN = re.compile(r'[^"\\\x00-\x1f]*')
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null", re.ASCII)
_SCALAR_CHARACTER = re.compile(r"[-+.\w]", re.ASCII)
_HEX = frozenset("0123456789abcdefABCDEF")


class NotJsonError(ValueError):
    """What comes is no JSON; `position` is where, in the text that was fed last."""

    def __init__(self, position: int) -> None:
        super().__init__(f"no JSON from character {position} on")
        self.position = position


def loads(text: str) -> object:
    """Return the value of a JSON text. Raises ValueError for what is none, NaN and the like included."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


class JsonScanner:
    """Follows one value. It keeps none of it, only what may come next."""

    def __init__(self) -> None:
        """Wait for a value, without white space in front of it."""
        self.is_complete = False
        self._open: list[str] = []
        self._next: Callable[[str], bool] = self._value
        self._scalar = ""
        self._is_key = False
        self._num_hex = 0

    def feed(self, text: str) -> int:
        """Return how many characters of `text` belong to the value: all of them as long as it is not complete.

        A number is complete only once something else follows.

        Raises:
            NotJsonError: a character fits nowhere.
        """
        position = 0
        while position < len(text) and not self.is_complete:
            if self._next == self._string:
                run = _STRING_RUN.match(text, position)
                position = run.end() if run else position
                if position == len(text):
                    break
            try:
                position += self._next(text[position])
            except ValueError as error:
                raise NotJsonError(position) from error
        return position

    # What follows says whether it took the character.

    def _value(self, character: str) -> bool:
        if character in "{[":
            self._open.append(character)
            self._next = self._first_key if character == "{" else self._first_item
        elif character == '"':
            self._begin_string(is_key=False)
        else:
            self._scalar, self._next = "", self._in_scalar
            _expect(_SCALAR_CHARACTER.match(character) is not None)
            return self._in_scalar(character)
        return True

    def _first_key(self, character: str) -> bool:
        return self._end("}") if character == "}" else self._key(character)

    def _first_item(self, character: str) -> bool:
        if character in WHITE_SPACE:
            return True
        return self._end("]") if character == "]" else self._value(character)

    def _key(self, character: str) -> bool:
        if character not in WHITE_SPACE:
            _expect(character == '"')
            self._begin_string(is_key=True)
        return True

    def _colon(self, character: str) -> bool:
        if character not in WHITE_SPACE:
            _expect(character == ":")
            self._next = self._item
        return True

    def _item(self, character: str) -> bool:
        return character in WHITE_SPACE or self._value(character)

    def _comma(self, character: str) -> bool:
        """Take what follows a value that is part of another one."""
        if character in WHITE_SPACE:
            return True
        if character in "}]":
            return self._end(character)
        _expect(character == ",")
        self._next = self._key if self._open[-1] == "{" else self._item
        return True

    def _in_scalar(self, character: str) -> bool:
        if _SCALAR_CHARACTER.match(character):
            self._scalar += character
            return True
        _expect(_SCALAR.fullmatch(self._scalar) is not None)
        self._end_value()
        return False

    def _string(self, character: str) -> bool:
        if character == '"':
            if self._is_key:
                self._next = self._colon
            else:
                self._end_value()
        else:
            _expect(character == "\\")
            self._next = self._escape
        return True

    def _escape(self, character: str) -> bool:
        _expect(character in '"\\/bfnrtu')
        self._num_hex, self._next = 4, self._hex if character == "u" else self._string
        return True

    def _hex(self, character: str) -> bool:
        _expect(character in _HEX)
        self._num_hex -= 1
        self._next = self._hex if self._num_hex else self._string
        return True

    def _begin_string(self, *, is_key: bool) -> None:
        self._is_key, self._next = is_key, self._string

    def _end(self, character: str) -> bool:
        _expect(self._open.pop() + character in ("{}", "[]"))
        self._end_value()
        return True

    def _end_value(self) -> None:
        self.is_complete = not self._open
        self._next = self._comma


def _expect(is_met: bool) -> None:
    if not is_met:
        raise ValueError
