"""Tools and calls of them in OpenAI's form, in requests and in answers."""

import json
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from orchestrator.http.exchange.reading import Fields
from outrider.v1 import generation_pb2, target_pb2


class Function(Fields):
    """What a tool is."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema of the arguments")
    strict: Literal[False] | None = Field(None, description="calls are as the model writes them")


class FunctionTool(Fields):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function

    def to_tool(self) -> target_pb2.Tool:
        """Return it as the protocol has it."""
        return tool_of(self.function.name, self.function.description, self.function.parameters)


class CalledFunction(Fields):
    """Which tool is called, and what with."""

    name: str
    arguments: str = Field(description="a JSON object")


class FunctionCall(Fields):
    """A call that the model made."""

    id: str
    type: Literal["function"]
    function: CalledFunction

    def to_call(self) -> target_pb2.ToolCall:
        """Return it as the protocol has it."""
        return target_pb2.ToolCall(id=self.id, name=self.function.name, arguments=self.function.arguments)


def tool_of(name: str, description: str | None, schema: dict[str, Any] | None) -> target_pb2.Tool:
    """Return a tool as the protocol has it, with the keys of its schema in their order."""
    parameters = json.dumps(schema, ensure_ascii=False) if schema else ""
    return target_pb2.Tool(name=name, description=description or "", parameters=parameters)


def whole_calls(chunks: Iterable[generation_pb2.GenerateChunk]) -> list[generation_pb2.ToolCallDelta]:
    """Return the calls of a whole answer, each in one piece, without those that came to nothing."""
    calls: dict[int, generation_pb2.ToolCallDelta] = {}
    for delta in (delta for chunk in chunks for delta in chunk.tool_calls):
        if delta.is_withdrawn:
            calls.pop(delta.index, None)
        elif delta.index in calls:
            calls[delta.index].arguments += delta.arguments
        else:
            calls[delta.index] = generation_pb2.ToolCallDelta(
                index=delta.index, id=delta.id, name=delta.name, arguments=delta.arguments
            )
    return list(calls.values())


def call_of(call: generation_pb2.ToolCallDelta) -> dict[str, Any]:
    """Return a whole call as a message has it."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def delta_of(delta: generation_pb2.ToolCallDelta) -> dict[str, Any]:
    """Return a piece of a call as an event has it: its first piece has the id and the name."""
    piece: dict[str, Any] = {"index": delta.index, "function": {"arguments": delta.arguments}}
    if delta.id:
        piece |= {"id": delta.id, "type": "function"}
        piece["function"]["name"] = delta.name
    return piece
