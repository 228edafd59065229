"""Chats to prompts, with the model's own template in jinja2's immutable sandbox."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, UndefinedError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.engine.model.vocabulary import Vocabulary

# Part spellings of control tokens that a message happens to contain; no text of a chat holds them. What follows the
# first of them is the message's own up to the next mark, what follows the second may be the template's.
_WITHIN, _LAST = "\ufdd0", "\ufdd1"
_MARKS = re.compile(f"([{_WITHIN}{_LAST}])")
_NOT_ASCII = re.compile(f"[^\x00-\x7f{_WITHIN}{_LAST}]")
# Templates know of tools, which chats here have none of.
_NO_TOOLS: dict[str, object] = {"tools": None, "documents": None}
# Some were written to be used with tools only, and do not ask whether there are any.
_EMPTY_TOOLS: dict[str, object] = {"tools": [], "documents": [], "functions": ""}


# What a template is given beside a request's own variables, and what it calls.
_RESERVED = frozenset(
    {"messages", "add_generation_prompt", "bos_token", "eos_token", "raise_exception", "strftime_now"}
)
_DEVELOPER, _SYSTEM = "developer", "system"
# Where templates look for what a model thought before it answered.
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
# Some want it within the content, which is a list of blocks then.
_THINKING_BLOCK = re.compile(r"type['\"\]]*\s*==\s*['\"]thinking['\"]")


class ChatError(Exception):
    """The chat cannot be rendered; the message is one sentence."""


class VariablesError(ChatError):
    """The variables for a template are none that it can be given."""


@dataclass(frozen=True)
class Message:
    """One message of a chat; `reasoning` is what the model thought before it said `content`."""

    role: str
    content: str
    reasoning: str = ""


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
        self.source = source
        self._vocabulary = vocabulary
        self._knows_developer = _DEVELOPER in source
        self._wants_blocks = _THINKING_BLOCK.search(source) is not None
        self._reasoning_fields = [field for field in _REASONING_FIELDS if re.search(rf"[.'\"]{field}\b", source)]

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        variables: Mapping[str, object] | None = None,
        most: int = 2**31 - 1,
    ) -> tuple[str, list[int]]:
        """Return the prompt as text and as token ids.

        `variables` are what the template may ask for beside the messages, for example `enable_thinking`; no text in
        them becomes a control token either.

        Raises:
            VariablesError: one of them has the name of what every template is given.
            ChatError: the template refuses the chat, for example a role that it does not know.
            TooLongError: a part of it has more than `most` ids.
        """
        if reserved := sorted(_RESERVED & (variables or {}).keys()):
            raise VariablesError(f"a template's variable cannot be called {reserved[0]}")
        broken = [self._fields(message) for message in messages]
        own = {name: self._break_all(value) for name, value in (variables or {}).items()}
        try:
            try:
                rendered = self._rendered(broken, add_generation_prompt, _NO_TOOLS | own)
            except (TypeError, UndefinedError):
                usual = _EMPTY_TOOLS | {"datetime": _now("%b %d %Y")}
                rendered = self._rendered(broken, add_generation_prompt, usual | own)
        except Exception as error:  # a template is a program: it can fail in any way
            raise ChatError(f"the model's chat template refuses this chat: {_one_line(error)}") from error
        text, *rest = _MARKS.split(rendered)
        # What is wholly a message's is not searched for the many tokens that it cannot have.
        parts = [(text, True), *((part, mark == _LAST) for mark, part in zip(rest[::2], rest[1::2], strict=True))]
        text = "".join(part for part, _ in parts)
        self._vocabulary.check_length(text, most)
        tokens = self._vocabulary.tokenize_parts(parts, most=most)
        bos = self._vocabulary.bos
        if self._vocabulary.adds_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return text, tokens

    def _fields(self, message: Message) -> dict[str, object]:
        """Return a message as the template knows it. Most drop what a developer says without a word."""
        role = _SYSTEM if message.role == _DEVELOPER and not self._knows_developer else message.role
        content, reasoning = self._break(message.content), self._break(message.reasoning)
        # A role may stand within a spelling, as in <|user|>.
        fields: dict[str, object] = {"role": self._break(role, is_alone=False), "content": content}
        if reasoning and self._wants_blocks:
            said = [{"type": "text", "text": content}] if content else []
            fields["content"] = [{"type": "thinking", "thinking": reasoning}, *said]
        elif reasoning:
            fields |= dict.fromkeys(self._reasoning_fields, reasoning)
        return fields

    def _rendered(
        self, messages: Sequence[Mapping[str, object]], add_generation_prompt: bool, variables: Mapping[str, object]
    ) -> str:
        return self._template.render(
            variables,
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=self._spelling(self._vocabulary.bos),
            eos_token=self._spelling(self._vocabulary.eos),
        )

    def _break(self, text: str, *, is_alone: bool = True) -> str:
        """Part every spelling of a token that steers after its first character, those that overlap included.

        So is the text from the template's, where the two together could spell one, unless that is meant.
        """
        text = _MARKS.sub("\ufffd", text)
        spellings = self._vocabulary.steering_spellings
        before = [""] if is_alone and spellings.ends_at_start(text) else []
        after = [""] if is_alone and spellings.begins_at_end(text) else []
        first, *others = [*before, *spellings.parts(text), *after]
        if not others:
            return first
        return _WITHIN.join([first, *others[:-1]]) + _LAST + others[-1]

    def _break_all(self, value: object) -> object:
        match value:
            case str():
                return self._break(value)
            case list():
                return [self._break_all(item) for item in value]
            case dict():
                return {self._break(key): self._break_all(item) for key, item in value.items()}
            case _:
                return value

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
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)
    # The marks stay what they are.
    return _NOT_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], text) if ensure_ascii else text
