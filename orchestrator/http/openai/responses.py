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


class OpenItem:
    """An item of the output that is being written: its text, and what the events of its kind are called."""

    def __init__(self, index: int, *, is_thought: bool) -> None:
        self.index = index
        self.is_thought = is_thought
        self.id = f"{'rs' if is_thought else 'msg'}_{uuid.uuid4().hex}"
        self.events = "response.reasoning_text" if is_thought else "response.output_text"
        self.texts: list[str] = []
        self.log_probabilities: list[dict[str, Any]] = []

    @property
    def text(self) -> str:
        """What was written so far."""
        return "".join(self.texts)

    def part(self) -> dict[str, Any]:
        """Return its content."""
        if self.is_thought:
            return {"type": "reasoning_text", "text": self.text}
        text = {"type": "output_text", "text": self.text, "annotations": []}
        return text | {"logprobs": self.log_probabilities}

    def to_json(self, status: str) -> dict[str, Any]:
        """Return the item; it has no content where it has just begun."""
        content = [] if status == "in_progress" else [self.part()]
        if self.is_thought:
            return {"type": "reasoning", "id": self.id, "summary": [], "content": content, "status": status}
        return {"type": "message", "id": self.id, "role": "assistant", "content": content, "status": status}


class ModelResponse(Events):
    """An answer as a response, whole or as events."""

    def __init__(self, served: Served, asked: ResponseRequest, request: generation_pb2.GenerateRequest) -> None:
        model = served.model(request.model)
        self._asked = asked
        self._most_draft_tokens = served.most_draft_tokens(request)
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
        if answer.reasoning:
            self._open(is_thought=True).texts.append(answer.reasoning)
        if answer.content or not answer.reasoning:
            item = self._open(is_thought=False)
            item.texts.append(answer.content)
            item.log_probabilities = self._log_probabilities(answer.tokens)
        return self._to_json(self._status())

    def begin(self) -> bytes:
        """Return two events that say that there will be an answer."""
        response = self._to_json("in_progress")
        kinds = ("response.created", "response.in_progress")
        return b"".join(self._event(kind, response=response) for kind in kinds)

    def chunk(self, index: int, chunk: generation_pb2.GenerateChunk) -> bytes:
        """Return what a chunk thinks and says, with the end of one item and the beginning of the next between."""
        # Text may come later than its tokens.
        self._held += self._log_probabilities(chunk.tokens)
        events = self._write(chunk.reasoning, is_thought=True) if chunk.reasoning else b""
        return events + (self._write(chunk.content, is_thought=False) if chunk.content else b"")

    def end(self, index: int, summary: generation_pb2.GenerateSummary) -> bytes:
        """Return the end of the last item; an answer without any text has one too."""
        self._summary = summary
        events = b"" if self._items else self._begin_item(is_thought=False)
        return events + self._end_item()

    def finish(self) -> bytes:
        """Return the whole answer as the last event."""
        status = self._status()
        return self._event(f"response.{status}", response=self._to_json(status))

    def fail(self, error: ServiceError) -> bytes:
        """Return an error as an event."""
        said = error_body(error, _PATH)["error"]
        return self._event("error", code=said["code"], message=said["message"], param=said["param"])

    def _write(self, text: str, *, is_thought: bool) -> bytes:
        events = b""
        if not self._items or self._items[-1].is_thought != is_thought:
            events = (self._end_item() if self._items else b"") + self._begin_item(is_thought=is_thought)
        item, more = self._items[-1], {}
        item.texts.append(text)
        if not is_thought:
            more["logprobs"], self._held = self._held, []
            item.log_probabilities += more["logprobs"]
        return events + self._event(f"{item.events}.delta", **self._place(item), delta=text, **more)

    def _begin_item(self, *, is_thought: bool) -> bytes:
        item = self._open(is_thought=is_thought)
        added = self._event("response.output_item.added", output_index=item.index, item=item.to_json("in_progress"))
        return added + self._event("response.content_part.added", **self._place(item), part=item.part())

    def _end_item(self) -> bytes:
        item = self._items[-1]
        more = {} if item.is_thought else {"logprobs": item.log_probabilities}
        return (
            self._event(f"{item.events}.done", **self._place(item), text=item.text, **more)
            + self._event("response.content_part.done", **self._place(item), part=item.part())
            + self._event("response.output_item.done", output_index=item.index, item=item.to_json("completed"))
        )

    def _open(self, *, is_thought: bool) -> OpenItem:
        self._items.append(OpenItem(len(self._items), is_thought=is_thought))
        return self._items[-1]

    def _place(self, item: OpenItem) -> dict[str, Any]:
        return {"item_id": item.id, "output_index": item.index, "content_index": 0}

    def _event(self, kind: str, **data: Any) -> bytes:
        self._num_events += 1
        return event({"type": kind, "sequence_number": self._num_events - 1} | data, kind)

    def _log_probabilities(self, tokens: Tokens) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = chat_log_probabilities(tokens, self._texts)["content"] if self._texts else []
        return found

    def _status(self) -> str:
        return "completed" if told.finish_reason(self._summary) == "stop" else "incomplete"

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
            "tools": [],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": "disabled",
            "usage": self._usage() if is_over else None,
            "user": asked.user,
        }
        return response | (told.measures([self._summary], self._most_draft_tokens) if is_over else {})

    def _usage(self) -> dict[str, Any]:
        counts = told.usage([self._summary])
        return {
            "input_tokens": counts["prompt_tokens"],
            "input_tokens_details": {"cache_write_tokens": 0} | counts["prompt_tokens_details"],
            "output_tokens": counts["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0} | counts["completion_tokens_details"],
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
