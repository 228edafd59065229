"""Chats to prompts, with the model's own template in jinja2's immutable sandbox."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn

from jinja2 import TemplateError, UndefinedError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from outrider.v1.target_pb2 import ToolCallFormat
from services.engine.model.vocabulary import Vocabulary
from services.target.chat_shape import call_fields, left_out, shaped
from services.target.marks import END, Given, Marks, parted, to_json
from services.target.messages import ASSISTANT, Message
from services.target.template_needs import Fields, TemplateNeeds
from services.target.tool_call_formats import tool_call_formats

# Templates know of tools, which most chats have none of.
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


class ContinuationError(ChatError):
    """The last message is none that an answer can go on with."""


class _Generation(Extension):
    """The block {% generation %}, by which trainers mark what the model says. It changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[Node]:
        """Return what is inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """Lets templates change lists that they made themselves, as Kimi's does."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Return whether a template may use an attribute."""
        is_own = type(obj) is list and not attr.startswith("_")
        return is_own or super().is_safe_attribute(obj, attr, value)


class ChatTemplate:
    """Renders chats. What a message says never becomes a control token, whatever it spells."""

    def __init__(self, source: str, vocabulary: Vocabulary) -> None:
        """Compile a template. Raises ChatError when it is no valid jinja2."""
        environment = _Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
        # Nothing is escaped, and what is marked as safe would have all that is added to it escaped.
        environment.filters |= {"tojson": to_json, "safe": str}
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # beside its own errors jinja2 passes on those of Python's compiler
            raise ChatError(f"the model's chat template is not valid: {_one_line(error)}") from error
        self.source = source
        self.needs = TemplateNeeds(lambda messages, variables: self._rendered(messages, True, variables))
        self._vocabulary = vocabulary
        self._knows_developer = _DEVELOPER in source
        self._wants_blocks = _THINKING_BLOCK.search(source) is not None
        self._reasoning_fields = [field for field in _REASONING_FIELDS if re.search(rf"[.'\"]{field}\b", source)]

    @cached_property
    def tool_call_formats(self) -> list[ToolCallFormat]:
        """How the model writes calls of tools."""
        return tool_call_formats(self.source, "" if self.needs.call is None else self.needs.call.rendered)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        tools: Sequence[Fields] = (),
        variables: Mapping[str, object] | None = None,
        most: int = 2**31 - 1,
    ) -> tuple[str, list[int]]:
        """Return the prompt as text and as token ids.

        `tools` are those that the model may call, as OpenAI writes them. `variables` are what the template may ask for
        beside the messages, for example `enable_thinking`; no text in any of them becomes a control token either.
        With `continue_final_message` the prompt ends within the last message, where its text does.

        Raises:
            VariablesError: one of them has the name of what every template is given.
            ContinuationError: the last message is no assistant's, or calls tools.
            ChatError: the template refuses the chat, for example a role that it does not know, or has no place for
                tools, calls or what tools answer.
            TooLongError: a part of it has more than `most` ids.
        """
        given = {} if variables is None else variables
        if reserved := sorted((_RESERVED | ({"tools"} if tools else set())) & given.keys()):
            raise VariablesError(f"a template's variable cannot be called {reserved[0]}")
        if missing := left_out(messages, bool(tools), self.needs):
            raise ChatError(f"the model's chat template has no place for {missing}")
        marks = Marks(self._vocabulary.steering_spellings)
        try:
            chat = Given(self._fields(message, marks) for message in shaped(messages, self.needs))
            own = dict(given) | (self.needs.tools(tools) if tools else {})
            own = {name: marks.mark_all(value) for name, value in own.items()}
            if continue_final_message:
                _end_within(chat, messages[-1])
            rendered = self._rendered(chat, add_generation_prompt, own)
        except ContinuationError:
            raise
        except Exception as error:  # a template is a program: it can fail in any way
            raise ChatError(f"the model's chat template refuses this chat: {_one_line(error)}") from error
        if continue_final_message:
            rendered, end, _ = rendered.partition(END)
            if not end:
                raise ChatError("the model's chat template does not show the end of the last message")
        parts = parted(rendered)
        text = "".join(part for part, _ in parts)
        self._vocabulary.check_length(text, most)
        tokens = self._vocabulary.tokenize_parts(parts, most=most)
        bos = self._vocabulary.bos
        if self._vocabulary.adds_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return text, tokens

    def _fields(self, message: Message, marks: Marks) -> Fields:
        """Return a message as the template knows it. Most drop what a developer says without a word."""
        role = _SYSTEM if message.role == _DEVELOPER and not self._knows_developer else message.role
        content, reasoning = marks.mark(message.content), marks.mark(message.reasoning)
        # A role may stand within a spelling, as in <|user|>.
        fields: Fields = {"role": marks.mark(role, is_alone=False), "content": content}
        takes_parts = self.needs.wants_parts or (self.needs.knows_parts and len(message.parts) > 1)
        parts = (takes_parts and message.parts) or [message.content]
        blocks = [{"type": "text", "text": marks.mark(part)} for part in parts if part]
        if reasoning and self._wants_blocks:
            fields["content"] = Given([{"type": "thinking", "thinking": reasoning}, *blocks])
        elif len(blocks) > 1 or self.needs.wants_parts:
            fields["content"] = Given(blocks)
        if reasoning and not self._wants_blocks:
            fields |= dict.fromkeys(self._reasoning_fields, reasoning)
        if message.tool_calls and self.needs.call is not None:
            fields["tool_calls"] = marks.mark_all(call_fields(message.tool_calls, self.needs.call))
            fields["content"] = fields["content"] or self.needs.call.nothing
        return fields | {
            field: marks.mark(value)
            for field, value in (("tool_call_id", message.tool_call_id), ("name", message.name))
            if value
        }

    def _rendered(
        self, messages: Sequence[Mapping[str, object]], add_generation_prompt: bool, variables: Mapping[str, object]
    ) -> str:
        """Render, and once more with what some templates take for granted where they fail without it."""
        fixed: dict[str, object] = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self._spelling(self._vocabulary.bos),
            "eos_token": self._spelling(self._vocabulary.eos),
        }
        try:
            return self._template.render(_NO_TOOLS | dict(variables) | fixed)
        except (TypeError, UndefinedError):
            usual = _EMPTY_TOOLS | {"datetime": _now("%b %d %Y")}
            return self._template.render(usual | dict(variables) | fixed)

    def _spelling(self, token: int | None) -> str:
        return "" if token is None else self._vocabulary.entries[token].spelling.decode(errors="replace")


def _end_within(chat: Sequence[Fields], last: Message) -> None:
    """Mark where the last message of a chat ends: its content, or what was thought where it says nothing yet."""
    if last.role != ASSISTANT or last.tool_calls:
        raise ContinuationError("only a last message of an assistant that calls no tools can be gone on with")
    fields = chat[-1]
    blocks = fields["content"]
    thought = last.reasoning and not last.content
    if isinstance(blocks, list) and blocks:
        kind = blocks[-1]["type"]
        blocks[-1][kind] += END
    elif thought and (named := [name for name in _REASONING_FIELDS if name in fields]):
        fields.update({name: fields[name] + END for name in named})
    else:
        fields["content"] = (fields["content"] or "") + END


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)
