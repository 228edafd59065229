"""Messages of a chat, and the tools that a model may call in it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from outrider.v1 import target_pb2
from services.frame.rpc.errors import ServiceError, invalid_argument

TOOL, ASSISTANT = "tool", "assistant"


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that a model has made; `arguments` is a JSON object as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One message of a chat; `reasoning` is what the model thought before it said `content`.

    `parts` are what `content` is made of, where it came in parts. `tool_call_id` and `name` say what a tool answers.
    """

    role: str
    content: str
    reasoning: str = ""
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str = ""
    name: str = ""
    parts: Sequence[str] = field(default=(), kw_only=True)


def read_messages(messages: Sequence[target_pb2.ChatMessage]) -> list[Message]:
    """Return the messages of a request. Raises ServiceError for a call that names no tool."""
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def read_tools(tools: Sequence[target_pb2.Tool]) -> list[dict[str, Any]]:
    """Return the tools of a request as OpenAI writes them, which is what templates know.

    Raises ServiceError for one without a name, and for parameters that are no JSON object.
    """
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name or _refuse(f"tools[{index}].name", "a tool needs a name"),
                "description": tool.description,
                "parameters": _object(tool.parameters, f"tools[{index}].parameters")
                or {"type": "object", "properties": {}},
            },
        }
        for index, tool in enumerate(tools)
    ]


def texts_of(message: Message) -> str:
    """Return all that a message says, joined."""
    calls = "".join(call.id + call.name + call.arguments for call in message.tool_calls)
    return "".join([message.role, message.content, *message.parts, message.reasoning, calls, message.tool_call_id])


def _message(message: target_pb2.ChatMessage, field: str) -> Message:
    if message.content and message.content_parts:
        _refuse(f"{field}.content_parts", "a message has its content whole or in parts")
    if message.tool_calls and message.role != ASSISTANT:
        _refuse(f"{field}.tool_calls", "nobody but an assistant calls tools")
    calls = []
    for index, call in enumerate(message.tool_calls):
        path = f"{field}.tool_calls[{index}]"
        _object(call.arguments, f"{path}.arguments")
        calls.append(ToolCall(call.id, call.name or _refuse(f"{path}.name", "a call needs a name"), call.arguments))
    return Message(
        message.role,
        message.content or "\n".join(message.content_parts),
        message.reasoning,
        calls,
        message.tool_call_id,
        message.name,
        parts=list(message.content_parts),
    )


def _object(text: str, field: str) -> dict[str, Any]:
    """Return the JSON object of a field, an empty one where it is empty."""
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else _refuse(field, "it is no JSON object")


def _refuse(field: str, sentence: str) -> NoReturn:
    refusal: ServiceError = invalid_argument("INVALID_REQUEST", field, sentence)
    raise refusal
