"""Chats to prompts, with the model's own template in jinja2's immutable sandbox."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.engine.vocabulary import Attribute, Vocabulary

# Parts spellings of control tokens that a message happens to contain; no text of a chat holds it.
_BREAK = "\ufdd0"


class ChatError(Exception):
    """The chat cannot be rendered; the message is one sentence."""


class ChatTemplate:
    """Renders chats. What a message says never becomes a control token, whatever it spells."""

    def __init__(self, source: str, vocabulary: Vocabulary) -> None:
        """Compile a template. Raises ChatError when it is no valid jinja2."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ChatError(f"the model's chat template is not valid: {error}") from error
        self._vocabulary = vocabulary
        spellings = {
            entry.spelling.decode(errors="replace")
            for entry in vocabulary.entries
            if entry.attribute is Attribute.CONTROL and len(entry.spelling) > 1
        }
        longest_first = sorted(spellings, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first))) if spellings else None

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> tuple[str, list[int]]:
        """Return the prompt as text and as token ids.

        Raises:
            ChatError: the template refuses the chat, for example a role that it does not know.
        """
        broken = [{key: self._break(value) for key, value in message.items()} for message in messages]
        try:
            rendered = self._template.render(
                messages=broken,
                add_generation_prompt=add_generation_prompt,
                bos_token=self._spelling(self._vocabulary.bos),
                eos_token=self._spelling(self._vocabulary.eos),
                tools=None,
                documents=None,
            )
        except (TemplateError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            raise ChatError(f"the model's chat template refuses this chat: {error}") from error
        tokens: list[int] = []
        for part in rendered.split(_BREAK):
            tokens += self._vocabulary.tokenize(part, add_bos=False, parse_special=True)
        bos = self._vocabulary.bos
        if self._vocabulary.adds_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return rendered.replace(_BREAK, ""), tokens

    def _break(self, text: str) -> str:
        """Part every spelling of a control token after its first character."""
        text = text.replace(_BREAK, "\ufffd")
        if self._control is None:
            return text
        return self._control.sub(lambda match: match[0][0] + _BREAK + match[0][1:], text)

    def _spelling(self, token: int | None) -> str:
        return "" if token is None else self._vocabulary.entries[token].spelling.decode(errors="replace")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _to_json(value: Any, indent: int | None = None, **_options: Any) -> str:
    # jinja2's own filter escapes for HTML.
    return json.dumps(value, ensure_ascii=False, indent=indent)
