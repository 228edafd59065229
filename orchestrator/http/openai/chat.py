"""`/v1/chat/completions`: the next message of a chat."""

from typing import Any, Literal, Self

from fastapi import APIRouter, Request
from pydantic import Field, model_validator
from starlette.responses import JSONResponse, Response

from orchestrator.generation.generation import draw_seed
from orchestrator.http.exchange.cycles import reports
from orchestrator.http.exchange.errors import unsupported
from orchestrator.http.exchange.reading import Fields, JsonRoute, Many, Uint32, Unsupported
from orchestrator.http.exchange.running import Answer, unless_gone
from orchestrator.http.exchange.stream import EventStream
from orchestrator.http.exchange.told import finish_reason
from orchestrator.http.openai.answer import OpenAIAnswer
from orchestrator.http.openai.fields import ChoiceFields, choices_of
from orchestrator.http.openai.log_probabilities import Tokens, TokenTexts, chat_log_probabilities
from orchestrator.http.openai.parts import TextPart
from orchestrator.http.openai.tools import FunctionCall, FunctionTool, call_of, delta_of, whole_calls
from orchestrator.http.sampling import NAMES, NumTokens, Requests, num_tokens, template_variables
from orchestrator.http.served import Served
from outrider.v1 import generation_pb2, target_pb2
from services.frame.rpc.errors import invalid_argument

_PATH = "/v1/chat/completions"
_NAMES = {"num_log_probabilities": "top_logprobs", "chat.messages": "messages", **NAMES}


class ChatMessage(Fields):
    """One message of a chat."""

    role: str = Field(description="system, developer, user, assistant, or another that the template knows")
    content: str | Many[TextPart] | None = Field(None, description="a text, or parts of text")
    reasoning_content: str | None = Field(None, description="what the model thought before it said that")
    name: str | None = Field(None, description="who it is, where the template tells")
    tool_calls: Many[FunctionCall] | None = Field(None, description="of an assistant: what it calls")
    tool_call_id: str | None = Field(None, description="of a tool: the call that it answers")
    refusal: Unsupported = None
    audio: Unsupported = None
    annotations: Unsupported = None
    function_call: Unsupported = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError("content is needed")
        return self

    def to_message(self) -> target_pb2.ChatMessage:
        """Return it as the protocol has it."""
        message = target_pb2.ChatMessage(
            role=self.role,
            reasoning=self.reasoning_content or "",
            tool_calls=[call.to_call() for call in self.tool_calls or ()],
            tool_call_id=self.tool_call_id or "",
            name=self.name or "",
        )
        if isinstance(self.content, list):
            message.content_parts.extend(part.text for part in self.content)
        else:
            message.content = self.content or ""
        return message


class ResponseFormat(Fields):
    """What an answer is to be like."""

    type: Literal["text"]


class ChatRequest(ChoiceFields):
    """A request for the next message of a chat."""

    messages: Many[ChatMessage]
    max_completion_tokens: NumTokens | None = Field(None, description="most tokens of an answer; what fits if absent")
    max_tokens: NumTokens | None = Field(None, description="the older name of max_completion_tokens")
    logprobs: bool | None = None
    top_logprobs: Uint32 | None = Field(None, description="most probable tokens of each position, at most 20")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        None, description="a variable of the template"
    )
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables of the template")
    response_format: ResponseFormat | None = None
    modalities: Many[Literal["text"]] | None = None
    tools: Many[FunctionTool] | None = Field(None, description="what the model may call")
    tool_choice: Literal["none", "auto"] | None = Field(None, description="with none the model is told of no tools")
    parallel_tool_calls: bool | None = Field(None, description="changes nothing")
    continue_final_message: bool | None = Field(None, description="go on with the last message, an assistant's")
    add_generation_prompt: bool | None = Field(None, description="false with continue_final_message, else true")
    functions: Unsupported = None
    function_call: Unsupported = None
    audio: Unsupported = None
    verbosity: Unsupported = None
    web_search_options: Unsupported = None

    def requests(self, context_length: int) -> list[generation_pb2.GenerateRequest]:
        """Return a request for each choice; an answer has at most `context_length` tokens. Raises ServiceError."""
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        request = generation_pb2.GenerateRequest(max_tokens=num_tokens(most, context_length))
        request.chat.messages.extend(message.to_message() for message in self.messages)
        if self.tool_choice != "none":
            request.chat.tools.extend(tool.to_tool() for tool in self.tools or ())
        if self.add_generation_prompt not in (None, not self.continue_final_message):
            raise unsupported(
                "add_generation_prompt", "add_generation_prompt is false with continue_final_message alone"
            )
        request.chat.continue_final_message = bool(self.continue_final_message)
        request.chat.template_variables.CopyFrom(template_variables(self._variables()))
        self.fill(request)
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid_argument("INVALID_REQUEST", "top_logprobs", "top_logprobs needs logprobs")
        if self.logprobs:
            request.num_log_probabilities = self.top_logprobs or 0
        return choices_of(request, self.num_choices, draw_seed())

    def _variables(self) -> dict[str, Any]:
        effort = {} if self.reasoning_effort is None else {"reasoning_effort": self.reasoning_effort}
        return effort | (self.chat_template_kwargs or {})


class ChatCompletion(OpenAIAnswer):
    """An answer with messages."""

    def __init__(self, served: Served, asked: ChatRequest, requests: Requests) -> None:
        kind = "chat.completion.chunk" if asked.stream else "chat.completion"
        super().__init__(served, asked, requests, prefix="chatcmpl", kind=kind)
        self._texts = TokenTexts(served.backend.target.served) if asked.logprobs else None

    def whole(self, answers: list[Answer]) -> dict[str, Any]:
        """Return a whole answer."""
        choices = []
        for index, answer in enumerate(answers):
            calls = [call_of(call) for call in whole_calls(answer.chunks)]
            message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
            if calls:
                message |= {"content": answer.content or None, "tool_calls": calls}
            if answer.reasoning:
                message["reasoning_content"] = answer.reasoning
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": self._log_probabilities(answer.tokens),
                    "finish_reason": finish_reason(answer.summary),
                }
                | reports(answer.chunks)
            )
        return self.complete(answers, choices)

    def begin(self) -> bytes:
        """Return an event for each choice that says who speaks."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self.event([self._choice(index, delta)]) for index in range(len(self._summaries)))

    def chunk(self, index: int, chunk: generation_pb2.GenerateChunk) -> bytes:
        """Return an event with what a chunk says and thinks, nothing where that is nothing."""
        delta: dict[str, Any] = {}
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.content:
            delta["content"] = chunk.content
        if pieces := [delta_of(each) for each in chunk.tool_calls if not each.is_withdrawn]:
            delta["tool_calls"] = pieces
        report = reports([chunk])
        if not delta and not report and not (self._texts and chunk.tokens):
            return b""
        return self.event([self._choice(index, delta, chunk.tokens) | report])

    def ended(self, index: int, finish_reason: str) -> dict[str, Any]:
        """Return a choice without text."""
        return self._choice(index, {}) | {"finish_reason": finish_reason}

    def _choice(self, index: int, delta: dict[str, Any], tokens: Tokens = ()) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": self._log_probabilities(tokens), "finish_reason": None}

    def _log_probabilities(self, tokens: Tokens) -> dict[str, Any] | None:
        return chat_log_probabilities(tokens, self._texts) if self._texts is not None and tokens else None


def chat_routes(served: Served) -> APIRouter:
    """Return the route of chats."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post(_PATH, summary="The next message of a chat", tags=["openai"])
    async def answer(asked: ChatRequest, request: Request) -> Response:
        requests = asked.requests(served.model(asked.model).context_length)
        generations = served.generations(request, requests, _NAMES)
        completion = ChatCompletion(served, asked, requests)
        if asked.stream:
            return EventStream(generations, completion)
        return JSONResponse(completion.whole(await unless_gone(request.receive, generations.collect())))

    return routes
