"""Calls of tools, read from the text in which a model writes them."""

import json
import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence

from orchestrator.generation.argument_types import ArgumentTypes
from orchestrator.generation.json_scanner import loads
from orchestrator.generation.pieces import Pieces, Read, UnexpectedTextError
from outrider.v1 import generation_pb2, target_pb2

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
    return {tool.name: ArgumentTypes(json.loads(tool.parameters.strip() or "{}")) for tool in tools}


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
        self._text = Pieces()
        self._is_within_call = False
        self._steps = self._read()
        self._deltas: list[generation_pb2.ToolCallDelta] = []
        self.next_index = first_index
        self.num_calls = 0

    def feed(self, text: str, *, is_last: bool) -> bool:
        """Go on with a text, and return whether the calls are over. Nothing follows what `is_last`."""
        self._text.add(text, is_last=is_last)
        try:
            next(self._steps)
        except StopIteration:
            return True
        except UnexpectedTextError:
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
        return self._text.taken

    @property
    def rest(self) -> str:
        """What was fed and follows the calls, once they are over."""
        return self._text.left

    def _read(self) -> Read:
        text, form = self._text, self._form
        # Models forget themselves, and write JSON.
        is_named = form.name_closes or form.key_opens
        yield from text.space()
        yield from text.expects(form.opens)
        yield from text.space()
        while True:
            if is_named and not (yield from text.is_next("[", "{")):
                yield from self._named_call()
            elif (yield from text.takes("[")):
                yield from self._list()
            else:
                yield from self._object()
            yield from text.space()
            if form.closes and (yield from text.takes(form.closes)):
                return text.forget()
            if not (yield from self._goes_on()):
                return text.forget()

    def _goes_on(self) -> Read:
        """Whether another call follows that needs no opening of its own."""
        text, form = self._text, self._form
        is_bare = not form.opens and not form.call_opens
        if not is_bare and not form.closes:
            return False
        # Llama parts several calls by semicolons.
        is_parted = is_bare and (yield from text.takes(";"))
        yield from text.space()
        goes_on = yield from text.is_next(form.call_opens or "{")
        if is_parted and not goes_on:
            raise UnexpectedTextError
        return goes_on

    def _list(self) -> Read:
        text = self._text
        while True:
            yield from text.space()
            yield from self._object()
            yield from text.space()
            if not (yield from text.takes(",")):
                break
        yield from text.expects("]")
        text.forget()

    def _object(self) -> Read:
        """Read an object with a name and arguments, in any order. The second of them may be told as it comes."""
        text = self._text
        name, arguments, is_told = "", "{}", False
        yield from text.expects("{")
        while True:
            yield from text.space()
            key = _text_of((yield from text.json_value('"')))
            yield from text.space()
            yield from text.expects(":")
            yield from text.space()
            if key in _NAME_KEYS and not name:
                name = _text_of((yield from text.json_value('"')))
            elif key in _ARGUMENTS_KEYS and name and not is_told and (yield from text.is_next("{")):
                self._begin(name)
                is_told = True
                yield from text.json_value("{", self._tell)
            elif key in _ARGUMENTS_KEYS and not is_told:
                arguments = yield from text.json_value()
            else:
                yield from text.json_value()
            yield from text.space()
            if not (yield from text.takes(",")):
                break
        yield from text.expects("}")
        if not is_told:
            self._begin(name)
            self._tell(_object_of(arguments))
        self._complete()

    def _named_call(self) -> Read:
        text, form = self._text, self._form
        yield from text.expects(form.call_opens)
        yield from text.space()
        name = yield from text.run_of(_NAME_CHARACTERS, _LONGEST_NAME)
        yield from text.until(form.name_closes, _FAR)
        if form.key_opens:
            self._begin(name)
            yield from self._arguments(name)
        else:
            yield from text.space()
            if not (yield from text.is_next("{")):
                raise UnexpectedTextError
            self._begin(name)
            yield from text.json_value("{", self._tell)
            self._complete()
            yield from text.space()
            yield from text.takes(form.call_closes)
        text.forget()

    def _arguments(self, name: str) -> Read:
        """Read arguments that have a place each, and what ends them, without which the call is not whole."""
        text, form = self._text, self._form
        types = self._tools.get(name) or ArgumentTypes({})
        self._tell("{")
        first = ""
        while True:
            yield from text.space()
            if not (yield from text.takes(form.key_opens)):
                break
            key = (yield from text.until(form.key_closes, _FAR)).strip()
            yield from text.until(form.value_opens, _FAR)
            self._tell(f"{first}{_json(key)}: ")
            first = ", "
            yield from self._argument(key, types)
        if form.call_closes:
            yield from text.expects(form.call_closes)
        elif not (yield from text.is_next(form.closes)):
            raise UnexpectedTextError
        self._tell("}")
        self._complete()

    def _argument(self, key: str, types: ArgumentTypes) -> Read:
        """Read one value up to what ends it. A text is told as it comes."""
        text = self._text
        closes, is_text = self._form.value_closes, types.is_text(key)
        yield from text.takes("\n")
        parts: list[str] = []
        self._tell('"' if is_text else "")
        while (end := text.left.find(closes)) < 0:
            part = text.take(len(text.left) - _undecided(text.left, closes))
            parts.append(part)
            if is_text:
                self._tell(_json(part)[1:-1])
            yield from text.waits()
        last = text.take(end).removesuffix("\n")
        text.take(len(closes))
        self._tell(_json(last)[1:] if is_text else types.to_json(key, "".join([*parts, last])))

    def _begin(self, name: str) -> None:
        may_be_other = bool(self._form.opens and name) and len(name) <= _LONGEST_NAME
        if name not in self._tools and not (may_be_other and _NAME_CHARACTERS.fullmatch(name)):
            raise UnexpectedTextError
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
        self._text.forget()


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
        raise UnexpectedTextError
    return value
