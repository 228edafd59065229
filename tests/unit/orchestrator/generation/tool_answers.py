"""Answers with calls of tools, in the formats that models write them in."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from orchestrator.generation.answer import Answer, AnswerParts
from outrider.v1 import target_pb2
from services.target.tool_call_formats import _KNOWN

FORMATS = {known.format.opens or known.format.call_opens: known for known in _KNOWN}
TOOLS = [
    target_pb2.Tool(
        name="weather",
        description="Tells the weather.",
        parameters=json.dumps(
            {
                "type": "object",
                "properties": {
                    "place": {"type": "string"},
                    "days": {"type": "integer"},
                    "hourly": {"type": "boolean"},
                    "units": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "near": {"type": "array", "items": {"type": "string"}},
                    "anything": {},
                },
            }
        ),
    ),
    target_pb2.Tool(name="now"),
]
HERMES = target_pb2.ToolCallFormat(opens="<tool_call>", closes="</tool_call>")
BARE = target_pb2.ToolCallFormat()
MISTRAL = target_pb2.ToolCallFormat(opens="[TOOL_CALLS]")
MISTRAL_NAMED = target_pb2.ToolCallFormat(opens="[TOOL_CALLS]", name_closes="[ARGS]", beside=["[CALL_ID]"])
CODER = target_pb2.ToolCallFormat(
    opens="<tool_call>",
    closes="</tool_call>",
    call_opens="<function=",
    call_closes="</function>",
    name_closes=">",
    key_opens="<parameter=",
    key_closes=">",
    value_closes="</parameter>",
)
GLM = target_pb2.ToolCallFormat(
    opens="<tool_call>",
    closes="</tool_call>",
    key_opens="<arg_key>",
    key_closes="</arg_key>",
    value_opens="<arg_value>",
    value_closes="</arg_value>",
)


@dataclass
class Whole:
    """All that an answer came to, as a client joins it that may still leave out what is withdrawn."""

    content: str = ""
    reasoning: str = ""
    calls: dict[int, tuple[str, str]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def add(self, parts: AnswerParts) -> None:
        self.content += parts.content
        self.reasoning += parts.reasoning
        for delta in parts.tool_calls:
            if delta.is_withdrawn:
                del self.calls[delta.index]
            elif delta.name:
                assert delta.index not in self.calls
                self.calls[delta.index] = (delta.name, delta.arguments)
                self.ids.append(delta.id)
            else:
                name, arguments = self.calls[delta.index]
                self.calls[delta.index] = (name, arguments + delta.arguments)

    @property
    def meant(self) -> list[tuple[str, object]]:
        """The calls, with what their arguments stand for."""
        return [(name, json.loads(arguments)) for name, arguments in self.calls.values()]


def answer_of(
    *formats: target_pb2.ToolCallFormat,
    markers: Iterable[target_pb2.AnswerMarker] = (),
    first: target_pb2.AnswerPart.ValueType = target_pb2.ANSWER_PART_CONTENT,
    tools: Sequence[target_pb2.Tool] = tuple(TOOLS),
) -> Answer:
    """An answer in which calls are looked for."""
    form = target_pb2.AnswerFormat(first=first, markers=markers, tool_calls=formats)
    return Answer(form, tools=tools)


def whole(answer: Answer, pieces: Iterable[str]) -> Whole:
    """Let an answer have its text in pieces."""
    told = Whole()
    for piece in pieces:
        answer.feed(piece)
        told.add(answer.drain())
    told.add(answer.finish())
    return told
