"""`/v1/messages`, and `/v1/messages/count_tokens`."""

import json
import uuid
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from orchestrator.http.anthropic.fields import CountRequest, MessageRequest
from orchestrator.http.exchange import told
from orchestrator.http.exchange.errors import error_body
from orchestrator.http.exchange.reading import JsonRoute
from orchestrator.http.exchange.running import Answer, unless_gone
from orchestrator.http.exchange.stream import Events, EventStream, event
from orchestrator.http.openai.tools import whole_calls
from orchestrator.http.sampling import NAMES
from orchestrator.http.served import Served
from orchestrator.http.target_texts import of_target
from outrider.v1 import generation_pb2, target_pb2
from services.frame.rpc.errors import ServiceError

_PATH = "/v1/messages"
_NAMES = {"stop": "stop_sequences", "stop_tokens": "stop_token_ids", "chat.messages": "messages", **NAMES}
_COUNT_NAMES = {"template_variables": "chat_template_kwargs"}
_STOP_REASONS = {
    generation_pb2.FINISH_REASON_END_OF_GENERATION: "end_turn",
    generation_pb2.FINISH_REASON_STOP: "stop_sequence",
    generation_pb2.FINISH_REASON_MAX_TOKENS: "max_tokens",
    generation_pb2.FINISH_REASON_CONTEXT_FULL: "model_context_window_exceeded",
    generation_pb2.FINISH_REASON_TOOL_CALLS: "tool_use",
}


class AnthropicMessage(Events):
    """An answer as a message, whole or as events."""

    ping = event({"type": "ping"}, "ping")

    def __init__(self, served: Served, asked: MessageRequest, request: generation_pb2.GenerateRequest) -> None:
        self._most_draft_tokens = served.most_draft_tokens(request)
        self._trace_url = served.settings.trace_url
        self._head = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": served.model(request.model).name,
        }
        # The block that is being written: its type and, of a call, which one. None before the first.
        self._block: tuple[str, int] | None = None
        self._index = -1
        self._has_begun = False
        self._summary = generation_pb2.GenerateSummary()

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return a whole answer."""
        self._summary = answer.summary
        content = []
        if answer.reasoning:
            content.append({"type": "thinking", "thinking": answer.reasoning, "signature": ""})
        if answer.content:
            content.append({"type": "text", "text": answer.content})
        content += [_tool_use(call) | {"input": _arguments(call.arguments)} for call in whole_calls(answer.chunks)]
        return self._head | {"content": content} | self._ended() | {"usage": self._usage()} | self._measures()

    def begin(self) -> bytes:
        """Return nothing: the first event tells how long the prompt is, as the first chunk does."""
        return b""

    def chunk(self, index: int, chunk: generation_pb2.GenerateChunk) -> bytes:
        """Return what a chunk thinks, says and calls, with ends and beginnings of blocks between."""
        events = self._begin_message(chunk.usage)
        if text := chunk.reasoning:
            events += self._begin_block(("thinking", 0), {"type": "thinking", "thinking": "", "signature": ""})
            events += self._delta({"type": "thinking_delta", "thinking": text})
        if text := chunk.content:
            events += self._begin_block(("text", 0), {"type": "text", "text": ""})
            events += self._delta({"type": "text_delta", "text": text})
        for call in chunk.tool_calls:
            if not call.is_withdrawn:
                events += self._begin_block(("tool_use", call.index), _tool_use(call) | {"input": {}})
                events += self._delta({"type": "input_json_delta", "partial_json": call.arguments})
        return events

    def end(self, index: int, summary: generation_pb2.GenerateSummary) -> bytes:
        """Return the end of the last block, and why the answer ended."""
        self._summary = summary
        delta = {"type": "message_delta", "delta": self._ended(), "usage": self._usage()} | self._measures()
        return self._begin_message(summary.usage) + self._end_block() + event(delta, "message_delta")

    def finish(self) -> bytes:
        """Return the last event."""
        return event({"type": "message_stop"}, "message_stop")

    def fail(self, error: ServiceError) -> bytes:
        """Return an error as an event."""
        return event(error_body(error, _PATH), "error")

    def _begin_message(self, usage: generation_pb2.Usage) -> bytes:
        """Return two events that say that there will be an answer, nothing where there were."""
        if self._has_begun:
            return b""
        self._has_begun = True
        counts = _prompt_counts(usage) | {"output_tokens": 0}
        begun: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": counts}
        return event({"type": "message_start", "message": self._head | begun}, "message_start") + self.ping

    def _begin_block(self, block: tuple[str, int], begun: dict[str, Any]) -> bytes:
        """Return the end of the last block and the beginning of this one, nothing where it is the same."""
        if self._block == block:
            return b""
        events = self._end_block()
        self._block = block
        self._index += 1
        return events + self._event("content_block_start", content_block=begun)

    def _end_block(self) -> bytes:
        if self._block is None:
            return b""
        signature = {"type": "signature_delta", "signature": ""}
        events = self._delta(signature) if self._block[0] == "thinking" else b""
        return events + self._event("content_block_stop")

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._event("content_block_delta", delta=delta)

    def _event(self, kind: str, **data: Any) -> bytes:
        return event({"type": kind, "index": self._index} | data, kind)

    def _ended(self) -> dict[str, Any]:
        reason = _STOP_REASONS.get(self._summary.finish_reason, "end_turn")
        return {"stop_reason": reason, "stop_sequence": self._summary.stop or None}

    def _usage(self) -> dict[str, Any]:
        usage = self._summary.usage
        return _prompt_counts(usage) | {
            "output_tokens": usage.num_generated_tokens,
            "output_tokens_details": {"thinking_tokens": usage.num_reasoning_tokens},
        }

    def _measures(self) -> dict[str, Any]:
        return told.measures([self._summary], self._most_draft_tokens, self._trace_url)


def _prompt_counts(usage: generation_pb2.Usage) -> dict[str, int]:
    """Return the counts of a prompt's tokens; those that were read from the cache are counted apart."""
    return {
        "input_tokens": usage.num_prompt_tokens - usage.num_cached_prompt_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.num_cached_prompt_tokens,
    }


def _tool_use(call: generation_pb2.ToolCallDelta) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name}


def _arguments(arguments: str) -> Any:
    """Return the arguments of a whole call, which are JSON."""
    return json.loads(arguments) if arguments else {}


def message_routes(served: Served) -> APIRouter:
    """Return the routes of messages."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post(_PATH, summary="The next message of a chat, as Anthropic's clients ask for it", tags=["anthropic"])
    async def answer(asked: MessageRequest, request: Request) -> Response:
        served.model(asked.model)
        generate = asked.request()
        generations = served.generations(request, [generate], _NAMES)
        message = AnthropicMessage(served, asked, generate)
        if asked.stream:
            return EventStream(generations, message)
        (whole,) = await unless_gone(request.receive, generations.collect())
        return JSONResponse(message.whole(whole))

    @routes.post(f"{_PATH}/count_tokens", summary="How many tokens a chat has", tags=["anthropic"])
    async def count_tokens(asked: CountRequest) -> dict[str, int]:
        served.model(asked.model)
        await served.backend.target.ready()
        chat = asked.chat()
        render = target_pb2.ApplyChatTemplateRequest(
            messages=chat.messages,
            tools=chat.tools,
            template_variables=chat.template_variables,
            continue_final_message=chat.continue_final_message,
            add_generation_prompt=not chat.continue_final_message,
        )
        reply = await of_target(served.backend.target.stub.ApplyChatTemplate(render), _COUNT_NAMES)
        return {"input_tokens": len(reply.tokens)}

    return routes
