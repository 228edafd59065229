"""`/v1/responses`: OpenAI's newer form of a chat, without what would have to be stored."""

import time
import uuid
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from orchestrator.http.exchange import told
from orchestrator.http.exchange.errors import error_body
from orchestrator.http.exchange.reading import JsonRoute
from orchestrator.http.exchange.running import Answer, unless_gone
from orchestrator.http.exchange.stream import Events, EventStream, event
from orchestrator.http.openai.log_probabilities import Tokens, TokenTexts, chat_log_probabilities
from orchestrator.http.openai.response_fields import ResponseRequest
from orchestrator.http.openai.response_items import CallItem, MessageItem, OpenItem, ThoughtItem
from orchestrator.http.openai.tools import whole_calls
from orchestrator.http.sampling import NAMES
from orchestrator.http.served import Served, fingerprint
from outrider.v1 import generation_pb2
from services.frame.rpc.errors import ServiceError

_PATH = "/v1/responses"
_NAMES = {
    "num_log_probabilities": "top_logprobs",
    "max_tokens": "max_output_tokens",
    "chat.messages": "input",
    **NAMES,
}


class ModelResponse(Events):
    """An answer as a response, whole or as events."""

    def __init__(self, served: Served, asked: ResponseRequest, request: generation_pb2.GenerateRequest) -> None:
        model = served.model(request.model)
        self._asked = asked
        self._most_draft_tokens = served.most_draft_tokens(request)
        self._trace_url = served.settings.trace_url
        self._texts = TokenTexts(served.backend.target.served) if asked.wants_log_probabilities else None
        self._model = model.name
        self._fingerprint = fingerprint(model)
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created_s = int(time.time())
        self._items: list[OpenItem] = []
        self._held: list[dict[str, Any]] = []
        self._num_events = 0
        self._summary = generation_pb2.GenerateSummary()

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return a whole answer."""
        self._summary = answer.summary
        calls = whole_calls(answer.chunks)
        if answer.reasoning:
            self._open(ThoughtItem(len(self._items))).texts.append(answer.reasoning)
        if answer.content or not (answer.reasoning or calls):
            item = MessageItem(len(self._items))
            item.log_probabilities = self._log_probabilities(answer.tokens)
            self._open(item).texts.append(answer.content)
        for call in calls:
            self._open(CallItem(len(self._items), call)).texts.append(call.arguments)
        return self._to_json(self._status())

    def begin(self) -> bytes:
        """Return two events that say that there will be an answer."""
        response = self._to_json("in_progress")
        kinds = ("response.created", "response.in_progress")
        return b"".join(self._event(kind, response=response) for kind in kinds)

    def chunk(self, index: int, chunk: generation_pb2.GenerateChunk) -> bytes:
        """Return what a chunk thinks, says and calls, with ends and beginnings of items between."""
        # Text may come later than its tokens.
        self._held += self._log_probabilities(chunk.tokens)
        events = b""
        if chunk.reasoning:
            events += self._write(ThoughtItem, chunk.reasoning)
        if chunk.content:
            events += self._write(MessageItem, chunk.content)
        return events + b"".join(self._call(delta) for delta in chunk.tool_calls)

    def end(self, index: int, summary: generation_pb2.GenerateSummary) -> bytes:
        """Return the end of the last item; an answer without any text has one too."""
        self._summary = summary
        events = b"" if self._items else self._begin_item(MessageItem(0))
        return events + self._end_item()

    def finish(self) -> bytes:
        """Return the whole answer as the last event."""
        status = self._status()
        return self._event(f"response.{status}", response=self._to_json(status))

    def fail(self, error: ServiceError) -> bytes:
        """Return an error as an event."""
        said = error_body(error, _PATH)["error"]
        return self._event("error", code=said["code"], message=said["message"], param=said["param"])

    def _write(self, kind: type[ThoughtItem | MessageItem], text: str) -> bytes:
        events = b""
        if not self._items or not isinstance(self._items[-1], kind):
            events = self._end_item() + self._begin_item(kind(len(self._items)))
        item, more = self._items[-1], {}
        item.texts.append(text)
        if isinstance(item, MessageItem):
            more["logprobs"], self._held = self._held, []
            item.log_probabilities += more["logprobs"]
        return events + self._event(f"{item.events}.delta", **self._place(item), delta=text, **more)

    def _call(self, delta: generation_pb2.ToolCallDelta) -> bytes:
        last = self._items[-1] if self._items else None
        events = b""
        if not isinstance(last, CallItem) or last.call_index != delta.index:
            last = CallItem(len(self._items), delta)
            events = self._end_item() + self._begin_item(last)
        if delta.is_withdrawn:
            last.is_withdrawn = True
            return events
        last.texts.append(delta.arguments)
        return events + self._event(f"{last.events}.delta", **self._place(last), delta=delta.arguments)

    def _begin_item(self, item: OpenItem) -> bytes:
        self._open(item)
        added = self._event("response.output_item.added", output_index=item.index, item=item.to_json("in_progress"))
        if (part := item.part()) is None:
            return added
        return added + self._event("response.content_part.added", **self._place(item), part=part)

    def _end_item(self) -> bytes:
        """Return the end of the last item, where there is one."""
        if not self._items:
            return b""
        item = self._items[-1]
        events = self._event(f"{item.events}.done", **self._place(item), **item.done())
        if (part := item.part()) is not None:
            events += self._event("response.content_part.done", **self._place(item), part=part)
        done = item.to_json("completed")
        return events + self._event("response.output_item.done", output_index=item.index, item=done)

    def _open(self, item: OpenItem) -> OpenItem:
        self._items.append(item)
        return item

    def _place(self, item: OpenItem) -> dict[str, Any]:
        place = {"item_id": item.id, "output_index": item.index}
        return place if isinstance(item, CallItem) else place | {"content_index": 0}

    def _event(self, kind: str, **data: Any) -> bytes:
        self._num_events += 1
        return event({"type": kind, "sequence_number": self._num_events - 1} | data, kind)

    def _log_probabilities(self, tokens: Tokens) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = chat_log_probabilities(tokens, self._texts)["content"] if self._texts else []
        return found

    def _status(self) -> str:
        return "incomplete" if told.finish_reason(self._summary) == "length" else "completed"

    def _to_json(self, status: str) -> dict[str, Any]:
        asked, is_over = self._asked, status != "in_progress"
        reasoning = asked.reasoning
        response = {
            "id": self._id,
            "object": "response",
            "created_at": self._created_s,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": self._model,
            "output": [item.to_json("completed") for item in self._items] if is_over else [],
            "parallel_tool_calls": asked.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": reasoning.effort if reasoning else None, "summary": None},
            "service_tier": "default",
            "store": False,
            "system_fingerprint": self._fingerprint,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": asked.tool_choice or "auto",
            "tools": [tool.model_dump() for tool in asked.tools or ()],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": "disabled",
            "usage": self._usage() if is_over else None,
            "user": asked.user,
        }
        return response | (self._measures() if is_over else {})

    def _measures(self) -> dict[str, Any]:
        return told.measures([self._summary], self._most_draft_tokens, self._trace_url)

    def _usage(self) -> dict[str, Any]:
        counts = told.usage([self._summary])
        return {
            "input_tokens": counts["prompt_tokens"],
            "input_tokens_details": {"cache_write_tokens": 0} | counts["prompt_tokens_details"],
            "output_tokens": counts["completion_tokens"],
            "output_tokens_details": counts["completion_tokens_details"],
            "total_tokens": counts["total_tokens"],
        }


def response_routes(served: Served) -> APIRouter:
    """Return the route of responses."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post(_PATH, summary="The next message of a chat, as a response", tags=["openai"])
    async def respond(asked: ResponseRequest, request: Request) -> Response:
        generate = asked.request(served.model(asked.model).context_length)
        generations = served.generations(request, [generate], _NAMES)
        response = ModelResponse(served, asked, generate)
        if asked.stream:
            return EventStream(generations, response)
        (answer,) = await unless_gone(request.receive, generations.collect())
        return JSONResponse(response.whole(answer))

    return routes
