"""The fields of `/v1/messages`, and the chat that they are."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from orchestrator.http.exchange.errors import unsupported
from orchestrator.http.exchange.reading import Fields, Unsupported
from orchestrator.http.sampling import NumTokens, SamplingFields, num_tokens, template_variables
from outrider.v1 import generation_pb2, target_pb2


class CacheControl(Fields):
    """Changes nothing: prompts are kept by what they are."""

    type: Literal["ephemeral"]
    ttl: str | None = None


class Block(Fields):
    """A part of a message: a text, or what was thought before it."""

    type: Literal["text", "thinking"]
    text: str = ""
    thinking: str = ""
    signature: str | None = Field(None, description="changes nothing")
    cache_control: CacheControl | None = Field(None, description="changes nothing")
    citations: Unsupported = None


class Message(Fields):
    """One message of a chat."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]

    def to_message(self) -> target_pb2.ChatMessage:
        """Return it as the protocol has it."""
        if isinstance(self.content, str):
            return target_pb2.ChatMessage(role=self.role, content=self.content)
        thought = "\n".join(block.thinking for block in self.content if block.type == "thinking")
        return target_pb2.ChatMessage(role=self.role, content=_text_of(self.content), reasoning=thought)


class Thinking(Fields):
    """Whether the model is to think: the template's variable `enable_thinking`."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: NumTokens | None = Field(None, description="not held: the answer's most tokens hold for both")
    display: Literal["summarized"] | None = Field(None, description="changes nothing: all that is thought is told")


class OutputConfig(Fields):
    """What the answer is to be like."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="the template's variable `reasoning_effort`"
    )
    format: Unsupported = None


class ToolChoice(Fields):
    """Which tools may be called."""

    type: Literal["auto", "none"]
    disable_parallel_tool_use: bool | None = Field(None, description="changes nothing")


class Metadata(Fields):
    """Changes nothing."""

    user_id: str | None = None


class ChatFields(Fields):
    """What a count and an answer take alike."""

    messages: list[Message]
    system: str | list[Block] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables of the template")
    cache_control: CacheControl | None = Field(None, description="changes nothing")
    tool_choice: ToolChoice | None = None
    tools: Unsupported = None
    mcp_servers: Unsupported = None
    container: Unsupported = None
    context_management: Unsupported = None

    def chat(self) -> generation_pb2.ChatPrompt:
        """Return the chat. Raises ServiceError."""
        if self.messages and self.messages[-1].role == "assistant":
            last = f"messages[{len(self.messages) - 1}]"
            raise unsupported(last, f"{last}: a last message of the assistant is not supported")
        chat = generation_pb2.ChatPrompt(messages=[message.to_message() for message in self.messages])
        if self.system:
            content = self.system if isinstance(self.system, str) else _text_of(self.system)
            chat.messages.insert(0, target_pb2.ChatMessage(role="system", content=content))
        chat.template_variables.CopyFrom(template_variables(self._variables()))
        return chat

    def _variables(self) -> dict[str, Any]:
        variables: dict[str, Any] = {}
        if self.thinking is not None:
            variables["enable_thinking"] = self.thinking.type != "disabled"
        if self.output_config is not None and self.output_config.effort is not None:
            variables["reasoning_effort"] = self.output_config.effort
        return variables | (self.chat_template_kwargs or {})


class CountRequest(ChatFields):
    """A chat whose tokens are to be counted."""

    model: str | None = Field(None, description="a name of `/v1/models`; the target if absent")


class MessageRequest(ChatFields, SamplingFields):
    """A request for the next message of a chat."""

    max_tokens: NumTokens = Field(description="most tokens of the answer, thoughts included")
    stop_sequences: list[str] | None = Field(None, description="texts before the first of which it ends, at most 64")
    metadata: Metadata | None = Field(None, description="changes nothing")
    service_tier: Literal["auto", "standard_only"] | None = Field(None, description="changes nothing")

    def request(self) -> generation_pb2.GenerateRequest:
        """Return what it means. Raises ServiceError."""
        request = generation_pb2.GenerateRequest(
            chat=self.chat(), max_tokens=num_tokens(self.max_tokens, 0), stop=self.stop_sequences or ()
        )
        self.fill(request)
        return request


def _text_of(blocks: Sequence[Block]) -> str:
    return "\n".join(block.text for block in blocks if block.type == "text")
