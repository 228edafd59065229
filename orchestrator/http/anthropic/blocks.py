"""Messages of Anthropic's form, block by block, as the protocol has them."""

import json
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from orchestrator.http.exchange.reading import Fields, Many, Unsupported
from outrider.v1 import target_pb2


class CacheControl(Fields):
    """Changes nothing: prompts are kept by what they are."""

    type: Literal["ephemeral"]
    ttl: str | None = None


class TextBlock(Fields):
    """A text."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = Field(None, description="changes nothing")
    citations: Unsupported = None


# Fields that a block of each type must have.
_NEEDED = {"text": ("text",), "thinking": ("thinking",), "tool_use": ("id", "name"), "tool_result": ("tool_use_id",)}


class Block(Fields):
    """A part of a message: a text, a thought, a call of a tool, or what came of one."""

    type: Literal["text", "thinking", "tool_use", "tool_result"]
    text: str = ""
    thinking: str = ""
    signature: str | None = Field(None, description="changes nothing")
    id: str = Field("", description="of a call")
    name: str = Field("", description="of a call: which tool")
    input: dict[str, Any] | None = Field(None, description="of a call: the arguments")
    tool_use_id: str = Field("", description="of what came of a call: its id")
    content: str | Many[TextBlock] | None = Field(None, description="what came of a call")
    is_error: bool | None = Field(None, description="changes nothing: the content tells")
    cache_control: CacheControl | None = Field(None, description="changes nothing")
    citations: Unsupported = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for name in _NEEDED[self.type]:
            if name not in self.model_fields_set:
                raise ValueError(f"a block of type {self.type} needs {name}")
        return self


class Message(Fields):
    """One message of a chat."""

    role: Literal["user", "assistant", "system"]
    content: str | Many[Block]

    def to_messages(self) -> list[target_pb2.ChatMessage]:
        """Return it as the protocol has it: what came of calls are messages of their own, before what is said."""
        if isinstance(self.content, str):
            return [target_pb2.ChatMessage(role=self.role, content=self.content)]
        results = [_result(block) for block in self.content if block.type == "tool_result"]
        message = target_pb2.ChatMessage(
            role=self.role,
            content_parts=[block.text for block in self.content if block.type == "text"],
            reasoning="\n".join(block.thinking for block in self.content if block.type == "thinking"),
            tool_calls=[_call(block) for block in self.content if block.type == "tool_use"],
        )
        is_empty = not (message.content_parts or message.reasoning or message.tool_calls)
        return results if results and is_empty else [*results, message]


def texts_of(content: str | Sequence[TextBlock] | None) -> list[str]:
    """Return the texts of a content."""
    return [content] if isinstance(content, str) else [block.text for block in content or ()]


def _call(block: Block) -> target_pb2.ToolCall:
    arguments = json.dumps(block.input or {}, ensure_ascii=False)
    return target_pb2.ToolCall(id=block.id, name=block.name, arguments=arguments)


def _result(block: Block) -> target_pb2.ChatMessage:
    parts = texts_of(block.content)
    return target_pb2.ChatMessage(role="tool", tool_call_id=block.tool_use_id, content_parts=parts)
