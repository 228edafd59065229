"""Chats to prompts, with the model's own template in jinja2's immutable sandbox."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, UndefinedError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.engine.vocabulary import Attribute, Vocabulary

# Parts spellings of control tokens that a message happens to contain; no text of a chat holds it.
_BREAK = "\ufdd0"
# Templates know of tools, which chats here have none of.
_NO_TOOLS: dict[str, object] = {"tools": None, "documents": None}
# Some were written to be used with tools only, and do not ask whether there are any.
_EMPTY_TOOLS: dict[str, object] = {"tools": [], "documents": [], "functions": ""}


# Characters, of which the slowest take milliseconds.
_SEARCHED = 4096
# A regular expression that matches nowhere.
_NOTHING = r"(?!)"


class ChatError(Exception):
    """The chat cannot be rendered; the message is one sentence."""


class _Generation(Extension):
    """The block {% generation %}, by which trainers mark what the model says. It changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[Node]:
        """Return what is inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """Renders chats. What a message says never becomes a control token, whatever it spells."""

    def __init__(self, source: str, vocabulary: Vocabulary) -> None:
        """Compile a template. Raises ChatError when it is no valid jinja2."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # beside its own errors jinja2 passes on those of Python's compiler
            raise ChatError(f"the model's chat template is not valid: {_one_line(error)}") from error
        self._vocabulary = vocabulary
        spellings = {
            entry.spelling.decode(errors="replace")
            for entry in vocabulary.entries
            if entry.attribute in (Attribute.CONTROL, Attribute.UNKNOWN) and len(entry.spelling) > 1
        }
        self._control = re.compile("|".join(map(re.escape, sorted(spellings))) or _NOTHING)
        self._longest_control = max(map(len, spellings), default=0)

    def render(
        self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool, most: int = 2**31 - 1
    ) -> tuple[str, list[int]]:
        """Return the prompt as text and as token ids.

        Raises:
            ChatError: the template refuses the chat, for example a role that it does not know.
            TooLongError: a part of it has more than `most` ids.
        """
        broken = [{key: self._break(value) for key, value in message.items()} for message in messages]
        try:
            try:
                rendered = self._rendered(broken, add_generation_prompt, _NO_TOOLS)
            except (TypeError, UndefinedError):
                rendered = self._rendered(broken, add_generation_prompt, _EMPTY_TOOLS | {"datetime": _now("%b %d %Y")})
        except Exception as error:  # a template is a program: it can fail in any way
            raise ChatError(f"the model's chat template refuses this chat: {_one_line(error)}") from error
        tokens: list[int] = []
        for part in rendered.split(_BREAK):
            tokens += self._vocabulary.tokenize(part, add_bos=False, parse_special=True, most=most)
        bos = self._vocabulary.bos
        if self._vocabulary.adds_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return rendered.replace(_BREAK, ""), tokens

    def _rendered(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool, tools: Mapping[str, object]
    ) -> str:
        return self._template.render(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=self._spelling(self._vocabulary.bos),
            eos_token=self._spelling(self._vocabulary.eos),
            **tools,
        )

    def _break(self, text: str) -> str:
        """Part every spelling of a control token after its first character, those that overlap included."""
        text = text.replace(_BREAK, "\ufffd")
        parts = []
        done = 0
        while (start := self._find_control(text, done)) is not None:
            parts.append(text[done : start + 1])
            done = start + 1
        return _BREAK.join([*parts, text[done:]])

    def _find_control(self, text: str, done: int) -> int | None:
        """Return where the next spelling begins. Python lets nobody else run while it searches: little at a time."""
        for first in range(done, len(text), _SEARCHED):
            match = self._control.search(text, first, first + _SEARCHED + self._longest_control)
            # What begins later may be cut off there: another one may begin before it.
            if match is not None and match.start() < first + _SEARCHED:
                return match.start()
        return None

    def _spelling(self, token: int | None) -> str:
        return "" if token is None else self._vocabulary.entries[token].spelling.decode(errors="replace")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter that templates are written for; jinja2's own escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
