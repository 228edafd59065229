"""The fields of `/v1/messages`, and the chat that they are."""

from typing import Any, Literal

from pydantic import Field

from orchestrator.http.anthropic.blocks import CacheControl, Message, TextBlock, texts_of
from orchestrator.http.exchange.reading import Fields, Many, Unsupported
from orchestrator.http.openai.tools import tool_of
from orchestrator.http.sampling import NumTokens, SamplingFields, num_tokens, template_variables
from outrider.v1 import generation_pb2


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


class AnthropicTool(Fields):
    """A tool that the model may call."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any] = Field(description="a JSON schema of the arguments")
    type: Literal["custom"] | None = None
    cache_control: CacheControl | None = Field(None, description="changes nothing")
    strict: Literal[False] | None = Field(None, description="calls are as the model writes them")


class Metadata(Fields):
    """Changes nothing."""

    user_id: str | None = None


class ChatFields(Fields):
    """What a count and an answer take alike."""

    messages: Many[Message] = Field(description="a last one of the assistant is gone on with")
    system: str | Many[TextBlock] | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables of the template")
    cache_control: CacheControl | None = Field(None, description="changes nothing")
    tools: Many[AnthropicTool] | None = Field(None, description="what the model may call")
    tool_choice: ToolChoice | None = Field(None, description="with none the model is told of no tools")
    mcp_servers: Unsupported = None
    container: Unsupported = None
    context_management: Unsupported = None

    def chat(self) -> generation_pb2.ChatPrompt:
        """Return the chat. Raises ServiceError."""
        chat = generation_pb2.ChatPrompt()
        if self.system:
            chat.messages.add(role="system", content_parts=texts_of(self.system))
        for message in self.messages:
            chat.messages.extend(message.to_messages())
        if self.tool_choice is None or self.tool_choice.type != "none":
            tools = self.tools or ()
            chat.tools.extend(tool_of(tool.name, tool.description, tool.input_schema) for tool in tools)
        chat.continue_final_message = bool(self.messages) and self.messages[-1].role == "assistant"
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
    stop_sequences: Many[str] | None = Field(None, description="texts before the first of which it ends, at most 64")
    metadata: Metadata | None = Field(None, description="changes nothing")
    service_tier: Literal["auto", "standard_only"] | None = Field(None, description="changes nothing")

    def request(self) -> generation_pb2.GenerateRequest:
        """Return what it means. Raises ServiceError."""
        request = generation_pb2.GenerateRequest(
            chat=self.chat(), max_tokens=num_tokens(self.max_tokens, 0), stop=self.stop_sequences or ()
        )
        self.fill(request)
        return request
