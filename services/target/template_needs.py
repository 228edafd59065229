"""What a chat template wants of tools and of what is said, found out by rendering small chats with it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cached_property
from itertools import product
from typing import Any, TypeAlias

Fields: TypeAlias = dict[str, Any]
# Renders messages, as a template knows them, with variables; the prompt for an answer follows them.
Render: TypeAlias = Callable[[Sequence[Fields], Mapping[str, object]], str]

_USER: Fields = {"role": "user", "content": "probe_asked"}
_SAID, _RESULT = "probe_said", "probe_result"
PROBE_NAME, PROBE_KEY, PROBE_VALUE = "probe_call", "probe_key", "probe_value"
_SECOND_VALUE = "probe_other"
_TOOL: Fields = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "probe_description",
        "parameters": {
            "type": "object",
            "properties": {"probe_argument": {"type": "string", "description": "probe_argument"}},
            "required": ["probe_argument"],
        },
    },
}


class IdForm(Enum):
    """Ids of calls that a template takes."""

    ANY = auto()
    # Nine letters and digits, as Mistral's.
    NINE = auto()
    # The name of the tool and which call it is, as Kimi's: it stands where others have the name.
    NAMED = auto()


_PROBE_IDS = {
    IdForm.ANY: ("call_1", "call_2"),
    IdForm.NINE: ("probeid01", "probeid02"),
    IdForm.NAMED: (f"functions.{PROBE_NAME}:0", f"functions.{PROBE_NAME}:1"),
}


@dataclass(frozen=True)
class CallForm:
    """How a template wants a message that calls tools, and what it makes of one: `rendered`."""

    # Whether arguments are JSON, as the model wrote them, or what it stands for.
    is_text: bool
    ids: IdForm
    # What a message has that says nothing.
    nothing: str | None
    rendered: str

    def fields(self, *values: str, content: str = "") -> Fields:
        """Return a message with a call for each of some values of the argument."""
        calls = [
            {"id": id_, "type": "function", "function": {"name": PROBE_NAME, "arguments": self.arguments(value)}}
            for id_, value in zip(_PROBE_IDS[self.ids], values, strict=False)
        ]
        return {"role": "assistant", "content": content or self.nothing, "tool_calls": calls}

    def arguments(self, value: str) -> object:
        """Return the arguments of a probe."""
        arguments = {PROBE_KEY: value}
        return json.dumps(arguments) if self.is_text else arguments


class TemplateNeeds:
    """Finds each need when it is first asked for. A template that fails at a small chat is not for such ones."""

    def __init__(self, render: Render) -> None:
        """Look into a template through `render`, which may raise anything."""
        self._render = render

    @cached_property
    def knows_parts(self) -> bool:
        """Whether content may be a list of blocks of text."""
        blocks = self._rendered([_content(_blocks("probe_asked"))])
        return bool(blocks) and blocks == self._rendered([_USER])

    @cached_property
    def wants_parts(self) -> bool:
        """Whether content must be such a list: a text does not show."""
        return "probe_asked" not in self._rendered([_USER]) and "probe_asked" in self._rendered(
            [_content(_blocks("probe_asked"))]
        )

    @cached_property
    def tools_variable(self) -> str | None:
        """By which name the template tells the model of tools; None where it does not."""
        return next((name for name in _TOOLS if self._shows([_USER], name, "probe_tool")), None)

    @cached_property
    def call(self) -> CallForm | None:
        """How calls are given; None where they do not show.

        Arguments are given as text where that shows as the object does: the model reads again what it wrote.
        """
        for nothing, ids in product(("", None), IdForm):
            as_object, as_text = [self._call_form(is_text, ids, nothing) for is_text in (False, True)]
            is_same = as_text.rendered == as_object.rendered
            forms = (as_text,) if is_same else (as_object, as_text)
            if found := next((form for form in forms if _shows_call(form.rendered)), None):
                makes_names = _PROBE_IDS[IdForm.NAMED][0] in found.rendered
                return self._call_form(found.is_text, IdForm.NAMED, nothing) if makes_names else found
        return None

    @cached_property
    def takes_several_calls(self) -> bool:
        """Whether one message may have several calls."""
        if self.call is None:
            return False
        rendered = self._chat(self.call.fields(PROBE_VALUE, _SECOND_VALUE), ids=self.call.ids, num_results=2)
        return PROBE_VALUE in rendered and _SECOND_VALUE in rendered

    @cached_property
    def says_beside_calls(self) -> bool:
        """Whether what a message says beside its calls shows, and they do."""
        if self.call is None:
            return False
        rendered = self._chat(self.call.fields(PROBE_VALUE, content=_SAID), ids=self.call.ids)
        return _SAID in rendered and _shows_call(rendered)

    @cached_property
    def says_before_calls(self) -> bool:
        """Whether it shows as a message of its own before them."""
        if self.call is None:
            return False
        said: Fields = {"role": "assistant", "content": _SAID}
        rendered = self._chat(said, self.call.fields(PROBE_VALUE), ids=self.call.ids, goes_on=True)
        return _SAID in rendered and _shows_call(rendered)

    @cached_property
    def shows_results(self) -> bool:
        """Whether what tools answer shows."""
        if self.call is None:
            return _RESULT in self._chat({"role": "assistant", "content": _SAID})
        return _RESULT in self._chat(self.call.fields(PROBE_VALUE), ids=self.call.ids)

    def tools(self, tools: Sequence[Fields]) -> dict[str, object]:
        """Return the variable by which the template is given tools."""
        return {} if self.tools_variable is None else {self.tools_variable: _TOOLS[self.tools_variable](tools)}

    def find(self) -> None:
        """Find all of them now, which takes some dozen renderings."""
        _ = self.wants_parts, self.knows_parts, self.tools_variable, self.takes_several_calls
        _ = self.says_beside_calls, self.says_before_calls, self.shows_results

    def _call_form(self, is_text: bool, ids: IdForm, nothing: str | None) -> CallForm:
        form = CallForm(is_text, ids, nothing, "")
        return replace(form, rendered=self._chat(form.fields(PROBE_VALUE), ids=ids))

    def _chat(self, *messages: Fields, ids: IdForm = IdForm.ANY, num_results: int = 1, goes_on: bool = False) -> str:
        """Render messages between a question and what tools answer, and perhaps another question after an answer."""
        # Its name is another one, so that the call's shows by itself.
        results = [
            {"role": "tool", "content": _RESULT, "tool_call_id": id_, "name": "probe_tool"}
            for id_ in _PROBE_IDS[ids][:num_results]
        ]
        rest = [{"role": "assistant", "content": "probe_answer"}, _USER] if goes_on else []
        return self._rendered([_USER, *messages, *results, *rest], self.tools([_TOOL]))

    def _shows(self, messages: Sequence[Fields], variable: str, text: str) -> bool:
        return text in self._rendered(messages, {variable: _TOOLS[variable]([_TOOL])})

    def _rendered(self, messages: Sequence[Fields], variables: Mapping[str, object] | None = None) -> str:
        try:
            return self._render(messages, variables or {})
        except Exception:  # a template is a program: it can fail in any way, and then it is not for such a chat
            return ""


def _as_json(tools: Sequence[Fields]) -> str:
    return json.dumps([tool["function"] for tool in tools], ensure_ascii=False, indent=4)


# Firefunction wants the functions as text.
_TOOLS: dict[str, Callable[[Sequence[Fields]], object]] = {"tools": list, "functions": _as_json}


def _blocks(text: str) -> list[Fields]:
    return [{"type": "text", "text": text}]


def _content(content: object) -> Fields:
    return {"role": "user", "content": content}


def _shows_call(rendered: str) -> bool:
    """Whether a call is there with name and arguments, and these as no Python object nor as a text within a text."""
    is_shown = all(text in rendered for text in (PROBE_NAME, PROBE_KEY, PROBE_VALUE))
    return is_shown and f"'{PROBE_KEY}'" not in rendered and f'\\"{PROBE_KEY}' not in rendered
