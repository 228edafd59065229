"""Calls of tools, read from the text in which a model writes them."""

import json
import re
import secrets
import string
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeAlias

from orchestrator.generation.argument_types import ArgumentTypes
from orchestrator.generation.json_scanner import WHITE_SPACE, JsonScanner, NotJsonError, loads
from outrider.v1 import generation_pb2, target_pb2

# A step of reading. It waits for more text wherever it yields.
Read: TypeAlias = Generator[None, None, Any]

_NAME_KEYS = ("name", "tool_name")
_ARGUMENTS_KEYS = ("arguments", "parameters")
_NAME_CHARACTERS = re.compile(r"[\w./-]*", re.ASCII)
_LONGEST_NAME = 128
# The most that stands between a name and what follows it: an id, or on which channel the call is made.
_FAR = 96
_ID_CHARACTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9


def draw_call_id() -> str:
    """Return a new id. Some templates take none but of this form."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))


def argument_types(tools: Sequence[target_pb2.Tool]) -> dict[str, ArgumentTypes]:
    """Return what is known of the arguments of each tool, by its name. Their schemas are valid, as the target says."""
    return {tool.name: ArgumentTypes(json.loads(tool.parameters or "{}")) for tool in tools}


class _NoCallError(Exception):
    """What comes is no call."""


class ToolCalls:
    """Reads what begins like a call, white space in front of it included, and the calls that follow it at once.

    Where it turns out to be none, or to break off, what was told of the call is withdrawn: what was read since the last
    whole call is `text`. Where that is depends on the text alone, not on the pieces in which it comes.
    """

    def __init__(
        self,
        form: target_pb2.ToolCallFormat,
        tools: Mapping[str, ArgumentTypes],
        first_index: int,
        draw_id: Callable[[], str] = draw_call_id,
    ) -> None:
        """Read calls of `tools`, and of others where the format leaves no doubt, from what the format begins with."""
        self._form = form
        self._tools = tools
        self._draw_id = draw_id
        self._is_last = False
        # What was fed and not read, and what was read since the last whole call.
        self._rest = ""
        self._read_text: list[str] = []
        self._is_within_call = False
        self._steps = self._read()
        self._deltas: list[generation_pb2.ToolCallDelta] = []
        self.next_index = first_index
        self.num_calls = 0

    def feed(self, text: str, *, is_last: bool) -> bool:
        """Go on with a text, and return whether the calls are over. Nothing follows what `is_last`."""
        self._rest += text
        self._is_last = is_last
        try:
            next(self._steps)
        except StopIteration:
            return True
        except _NoCallError:
            if self._is_within_call:
                self._deltas.append(generation_pb2.ToolCallDelta(index=self.next_index - 1, is_withdrawn=True))
            return True
        return False

    def drain(self) -> list[generation_pb2.ToolCallDelta]:
        """Return what is certain since the last time."""
        deltas, self._deltas = self._deltas, []
        return deltas

    @property
    def text(self) -> str:
        """What was read and is no call, once they are over."""
        return "".join(self._read_text)

    @property
    def rest(self) -> str:
        """What was fed and follows the calls, once they are over."""
        return self._rest

    def _read(self) -> Read:
        form = self._form
        yield from self._space()
        yield from self._expects(form.opens)
        yield from self._space()
        while True:
            if form.name_closes or form.key_opens:
                yield from self._named_call()
            elif (yield from self._takes("[")):
                yield from self._list()
            else:
                yield from self._object()
            yield from self._space()
            if form.closes and (yield from self._takes(form.closes)):
                return self._read_text.clear()
            if not (yield from self._goes_on()):
                return self._read_text.clear()

    def _goes_on(self) -> Read:
        """Whether another call follows that needs no opening of its own."""
        form = self._form
        is_bare = not form.opens and not form.call_opens
        if not is_bare and not form.closes:
            return False
        # Llama parts several calls by semicolons.
        is_parted = is_bare and (yield from self._takes(";"))
        yield from self._space()
        goes_on = yield from self._is_next(form.call_opens or "{")
        if is_parted and not goes_on:
            raise _NoCallError
        return goes_on

    def _list(self) -> Read:
        while True:
            yield from self._space()
            yield from self._object()
            yield from self._space()
            if not (yield from self._takes(",")):
                break
        yield from self._expects("]")
        self._read_text.clear()

    def _object(self) -> Read:
        """Read an object with a name and arguments, in any order. The second of them may be told as it comes."""
        name, arguments, is_told = "", "{}", False
        yield from self._expects("{")
        while True:
            yield from self._space()
            key = _text_of((yield from self._value('"')))
            yield from self._space()
            yield from self._expects(":")
            yield from self._space()
            if key in _NAME_KEYS and not name:
                name = _text_of((yield from self._value('"')))
            elif key in _ARGUMENTS_KEYS and name and (yield from self._is_next("{")):
                self._begin(name)
                is_told = True
                yield from self._value("{", self._tell)
            elif key in _ARGUMENTS_KEYS and not is_told:
                arguments = yield from self._value()
            else:
                yield from self._value()
            yield from self._space()
            if not (yield from self._takes(",")):
                break
        yield from self._expects("}")
        if not is_told:
            self._begin(name)
            self._tell(_object_of(arguments))
        self._complete()

    def _named_call(self) -> Read:
        form = self._form
        yield from self._expects(form.call_opens)
        yield from self._space()
        name = yield from self._name()
        yield from self._until(form.name_closes)
        if form.key_opens:
            self._begin(name)
            yield from self._arguments(name)
        else:
            yield from self._space()
            if not (yield from self._is_next("{")):
                raise _NoCallError
            self._begin(name)
            yield from self._value("{", self._tell)
            self._complete()
            yield from self._space()
            yield from self._takes(form.call_closes)
        self._read_text.clear()

    def _arguments(self, name: str) -> Read:
        """Read arguments that have a place each, and what ends them, without which the call is not whole."""
        form = self._form
        types = self._tools.get(name) or ArgumentTypes({})
        self._tell("{")
        first = ""
        while True:
            yield from self._space()
            if not (yield from self._takes(form.key_opens)):
                break
            key = (yield from self._until(form.key_closes)).strip()
            yield from self._until(form.value_opens)
            self._tell(f"{first}{_json(key)}: ")
            first = ", "
            yield from self._argument(key, types)
        if form.call_closes:
            yield from self._expects(form.call_closes)
        elif not (yield from self._is_next(form.closes)):
            raise _NoCallError
        self._tell("}")
        self._complete()

    def _argument(self, key: str, types: ArgumentTypes) -> Read:
        """Read one value up to what ends it. A text is told as it comes."""
        closes, is_text = self._form.value_closes, types.is_text(key)
        yield from self._takes("\n")
        parts: list[str] = []
        self._tell('"' if is_text else "")
        while (end := self._rest.find(closes)) < 0:
            part = self._take(len(self._rest) - _undecided(self._rest, closes))
            parts.append(part)
            if is_text:
                self._tell(_json(part)[1:-1])
            yield from self._waits()
        last = self._take(end).removesuffix("\n")
        self._take(len(closes))
        self._tell(_json(last)[1:] if is_text else types.to_json(key, "".join([*parts, last])))

    def _begin(self, name: str) -> None:
        is_certain = bool(self._form.opens) or name in self._tools
        if not name or not _NAME_CHARACTERS.fullmatch(name) or len(name) > _LONGEST_NAME or not is_certain:
            raise _NoCallError
        self._deltas.append(generation_pb2.ToolCallDelta(index=self.next_index, id=self._draw_id(), name=name))
        self.next_index += 1
        self._is_within_call = True

    def _tell(self, arguments: str) -> None:
        if not arguments:
            return
        index = self.next_index - 1
        if not self._deltas or self._deltas[-1].index != index:
            self._deltas.append(generation_pb2.ToolCallDelta(index=index))
        self._deltas[-1].arguments += arguments

    def _complete(self) -> None:
        self.num_calls += 1
        self._is_within_call = False
        self._read_text.clear()

    # What a text is read by: each waits until it knows.

    def _waits(self) -> Read:
        if self._is_last:
            raise _NoCallError
        yield

    def _take(self, length: int) -> str:
        taken, self._rest = self._rest[:length], self._rest[length:]
        self._read_text.append(taken)
        return taken

    def _space(self) -> Read:
        """Take white space, perhaps none, up to something else or the end."""
        while True:
            self._take(len(self._rest) - len(self._rest.lstrip(WHITE_SPACE)))
            if self._rest or self._is_last:
                return
            yield

    def _is_next(self, text: str) -> Read:
        """Whether this comes next."""
        while len(self._rest) < len(text) and text.startswith(self._rest) and not self._is_last:
            yield
        return self._rest.startswith(text)

    def _takes(self, text: str) -> Read:
        """Take this if it comes next, and return whether it does."""
        if is_next := (yield from self._is_next(text)):
            self._take(len(text))
        return is_next

    def _expects(self, text: str) -> Read:
        """Take this. Raises _NoCallError where something else comes."""
        if not (yield from self._takes(text)):
            raise _NoCallError

    def _name(self) -> Read:
        """Take as many characters as a name may have; what follows them is there."""
        while True:
            match = _NAME_CHARACTERS.match(self._rest)
            length = match.end() if match else 0
            if length > _LONGEST_NAME:
                raise _NoCallError
            if length < len(self._rest):
                return self._take(length)
            yield from self._waits()

    def _until(self, text: str) -> Read:
        """Return what precedes this, which is not far, and take both."""
        while (end := self._rest.find(text)) < 0:
            if len(self._rest) > _FAR:
                raise _NoCallError
            yield from self._waits()
        if end > _FAR:
            raise _NoCallError
        before = self._take(end)
        self._take(len(text))
        return before

    def _value(self, begins: str = "", tell: Callable[[str], None] = lambda piece: None) -> Read:
        """Take a JSON value that begins so, and return it; its pieces are told as they come."""
        if not (yield from self._is_next(begins)):
            raise _NoCallError
        scanner, pieces = JsonScanner(), []
        while True:
            try:
                piece = self._take(scanner.feed(self._rest))
            except NotJsonError as error:
                tell(self._take(error.position))
                raise _NoCallError from error
            pieces.append(piece)
            tell(piece)
            if scanner.is_complete:
                return "".join(pieces)
            yield from self._waits()


def _undecided(text: str, closes: str) -> int:
    """Return the length of the end of a text that may be what closes it, or the line feed before that."""
    lengths = range(min(len(text), len(closes) - 1), 0, -1)
    length = next((length for length in lengths if closes.startswith(text[-length:])), 0)
    return length + text.endswith("\n", 0, len(text) - length)


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _text_of(value: str) -> str:
    """Return the text of a JSON string."""
    text: str = json.loads(value)
    return text


def _object_of(value: str) -> str:
    """Return the arguments that a JSON value stands for: an object, one within a string, or none."""
    if value.startswith('"'):
        value = _text_of(value).strip()
    if value in ("", "null"):
        return "{}"
    try:
        is_object = isinstance(loads(value), dict) and bool(value.encode())
    except ValueError:
        is_object = False
    if not is_object:
        raise _NoCallError
    return value
