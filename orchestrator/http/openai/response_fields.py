"""The fields of `/v1/responses`, and the chat that its input is."""

from typing import Any, Literal

from pydantic import Field

from orchestrator.http.exchange.errors import unsupported
from orchestrator.http.exchange.reading import Fields, Unsupported
from orchestrator.http.openai.chat import ResponseFormat
from orchestrator.http.openai.fields import CommonFields, StreamOptions
from orchestrator.http.sampling import NumTokens, Uint32, num_tokens, template_variables
from outrider.v1 import generation_pb2, target_pb2
from services.frame.rpc.errors import ServiceError, invalid_argument


class Part(Fields):
    """A part of a message's content, or of what was thought."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str
    annotations: Unsupported = None
    logprobs: list[Any] | None = Field(None, description="changes nothing")


class InputItem(Fields):
    """A message, or what was thought before the next one."""

    type: Literal["message", "reasoning"] | None = Field(None, description="message if absent")
    role: str | None = Field(None, description="of a message: user, assistant, system, developer")
    content: str | list[Part] | None = None
    id: str | None = Field(None, description="changes nothing")
    status: str | None = Field(None, description="changes nothing")
    phase: str | None = Field(None, description="changes nothing")
    summary: list[Part] | None = Field(None, description="of what was thought; used where there is no content")
    encrypted_content: str | None = Field(None, description="empty: what was thought is text here")

    @property
    def text(self) -> str:
        """Its content, or else its summary, as one text."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content or self.summary or ())


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

    input: str | list[InputItem]
    instructions: str | None = Field(None, description="a message of the system before all others")
    max_output_tokens: NumTokens | None = Field(None, description="most tokens; what fits if absent")
    top_logprobs: Uint32 | None = Field(None, description="log-probabilities with so many most probable tokens")
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    text: TextSettings | None = None
    reasoning: Reasoning | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables of the template")
    stream_options: StreamOptions | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    parallel_tool_calls: bool | None = Field(None, description="changes nothing")
    tool_choice: Literal["none", "auto"] | None = None
    tools: Unsupported = None
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
        thought = ""
        for index, item in enumerate(self.input):
            if item.encrypted_content:
                raise unsupported(f"input[{index}].encrypted_content")
            if item.type == "reasoning":
                thought = item.text
                continue
            if not item.role:
                raise _no_role(index)
            messages.append(target_pb2.ChatMessage(role=item.role, content=item.text, reasoning=thought))
            thought = ""
        return messages


def _no_role(index: int) -> ServiceError:
    return invalid_argument("INVALID_REQUEST", f"input[{index}].role", f"input[{index}].role is needed")
