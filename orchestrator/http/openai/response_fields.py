"""The fields of `/v1/responses`, and the chat that its input is."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from orchestrator.http.exchange.reading import Fields, Many, Uint32, Unsupported
from orchestrator.http.openai.chat import ResponseFormat
from orchestrator.http.openai.fields import CommonFields, StreamOptions
from orchestrator.http.openai.tools import tool_of
from orchestrator.http.sampling import NumTokens, num_tokens, template_variables
from outrider.v1 import generation_pb2, target_pb2
from services.frame.rpc.errors import invalid_argument


class Part(Fields):
    """A part of a message's content, or of what was thought."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str
    annotations: Unsupported = None
    logprobs: Many[Any] | None = Field(None, description="changes nothing")


class InputItem(Fields):
    """A message, what was thought before the next one, a call of a tool, or what came of one."""

    type: Literal["message", "reasoning", "function_call", "function_call_output"] | None = Field(
        None, description="message if absent"
    )
    role: str | None = Field(None, description="of a message: user, assistant, system, developer")
    content: str | Many[Part] | None = None
    name: str | None = Field(None, description="of a call: which tool")
    arguments: str | None = Field(None, description="of a call: a JSON object")
    call_id: str | None = Field(None, description="of a call, and of what came of it")
    output: str | Many[Part] | None = Field(None, description="what came of a call")
    summary: Many[Part] | None = Field(None, description="of what was thought; used where there is no content")
    encrypted_content: Unsupported = None
    id: str | None = Field(None, description="changes nothing")
    status: str | None = Field(None, description="changes nothing")
    phase: str | None = Field(None, description="changes nothing")


class ResponseTool(Fields):
    """A tool that the model may call."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema of the arguments")
    strict: Literal[False] | None = Field(None, description="calls are as the model writes them")


class TextSettings(Fields):
    """What the answer's text is to be like."""

    format: ResponseFormat | None = None
    verbosity: Unsupported = None


class Reasoning(Fields):
    """How much is to be thought."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        None, description="the template's variable `reasoning_effort`"
    )
    summary: str | None = Field(None, description="changes nothing: all that is thought is told")
    generate_summary: str | None = Field(None, description="changes nothing")


class ResponseRequest(CommonFields):
    """A request for a response."""

    input: str | Many[InputItem]
    instructions: str | None = Field(None, description="a message of the system before all others")
    max_output_tokens: NumTokens | None = Field(None, description="most tokens; what fits if absent")
    top_logprobs: Uint32 | None = Field(None, description="log-probabilities with so many most probable tokens")
    include: Many[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    text: TextSettings | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables of the template")
    stream_options: StreamOptions | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    parallel_tool_calls: bool | None = Field(None, description="changes nothing")
    tool_choice: Literal["none", "auto"] | None = Field(None, description="with none the model is told of no tools")
    tools: Many[ResponseTool] | None = Field(None, description="what the model may call")
    max_tool_calls: Unsupported = None
    previous_response_id: Unsupported = None
    conversation: Unsupported = None
    prompt: Unsupported = None

    @property
    def wants_log_probabilities(self) -> bool:
        """Whether its text comes with log-probabilities."""
        return self.top_logprobs is not None or "message.output_text.logprobs" in (self.include or ())

    def request(self, context_length: int) -> generation_pb2.GenerateRequest:
        """Return what it means. Raises ServiceError."""
        request = generation_pb2.GenerateRequest(max_tokens=num_tokens(self.max_output_tokens, context_length))
        request.chat.messages.extend(self._messages())
        if self.tool_choice != "none":
            tools = self.tools or ()
            request.chat.tools.extend(tool_of(tool.name, tool.description, tool.parameters) for tool in tools)
        effort = self.reasoning and self.reasoning.effort
        variables = ({"reasoning_effort": effort} if effort else {}) | (self.chat_template_kwargs or {})
        request.chat.template_variables.CopyFrom(template_variables(variables))
        self.fill(request)
        if self.wants_log_probabilities:
            request.num_log_probabilities = self.top_logprobs or 0
        return request

    def _messages(self) -> list[target_pb2.ChatMessage]:
        messages = []
        if self.instructions:
            messages.append(target_pb2.ChatMessage(role="system", content=self.instructions))
        if isinstance(self.input, str):
            return [*messages, target_pb2.ChatMessage(role="user", content=self.input)]
        return messages + chat_of(self.input)


def chat_of(items: Sequence[InputItem]) -> list[target_pb2.ChatMessage]:
    """Return the messages that items make: thoughts, words and calls that follow each other are one message.

    Raises ServiceError for an item that lacks what its type has.
    """
    messages: list[target_pb2.ChatMessage] = []
    is_open = False  # Whether the last one is an assistant's that may go on.
    for index, item in enumerate(items):
        kind = item.type or "message"
        for name in _NEEDED[kind]:
            if getattr(item, name) is None:
                raise invalid_argument("INVALID_REQUEST", f"input[{index}].{name}", f"input[{index}].{name} is needed")
        if kind == "function_call_output":
            messages.append(target_pb2.ChatMessage(role="tool", tool_call_id=item.call_id or ""))
            _fill(messages[-1], item.output)
        elif kind == "message" and item.role != "assistant":
            messages.append(target_pb2.ChatMessage(role=item.role or ""))
            _fill(messages[-1], item.content)
        else:
            if not is_open or (kind != "function_call" and not _may_follow(messages[-1], kind)):
                messages.append(target_pb2.ChatMessage(role="assistant"))
            _go_on(messages[-1], item, kind)
        is_open = kind in ("reasoning", "function_call") or item.role == "assistant"
    return messages


_NEEDED: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "message": ("role", "content"),
        "reasoning": (),
        "function_call": ("name", "arguments", "call_id"),
        "function_call_output": ("call_id", "output"),
    }
)


def _may_follow(message: target_pb2.ChatMessage, kind: str) -> bool:
    """Whether thoughts or words can be a part of an assistant's message as it is."""
    has_said = bool(message.content or message.content_parts or message.tool_calls)
    return not has_said and (kind == "message" or not message.reasoning)


def _go_on(message: target_pb2.ChatMessage, item: InputItem, kind: str) -> None:
    if kind == "function_call":
        message.tool_calls.add(id=item.call_id or "", name=item.name or "", arguments=item.arguments or "")
    elif kind == "reasoning":
        thought = item.content or item.summary or ""
        message.reasoning = thought if isinstance(thought, str) else "\n".join(part.text for part in thought)
    else:
        _fill(message, item.content)


def _fill(message: target_pb2.ChatMessage, content: str | list[Part] | None) -> None:
    if isinstance(content, list):
        message.content_parts.extend(part.text for part in content)
    else:
        message.content = content or ""
