"""What answers to completions and chats have in common, whole or as events."""

import time
import uuid
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from orchestrator.http.exchange import told
from orchestrator.http.exchange.errors import error_body
from orchestrator.http.exchange.running import Answer
from orchestrator.http.exchange.stream import Events, event
from orchestrator.http.openai.fields import ChoiceFields
from orchestrator.http.sampling import Requests
from orchestrator.http.served import Served, fingerprint
from outrider.v1 import generation_pb2
from services.frame.rpc.errors import ServiceError

_DONE = b"data: [DONE]\n\n"


class OpenAIAnswer(Events):
    """Writes an answer with one choice for each of `requests`."""

    def __init__(
        self,
        served: Served,
        asked: ChoiceFields,
        requests: Requests,
        *,
        prefix: str,
        kind: str,
    ) -> None:
        """Answers of a `kind`, as in "chat.completion", have ids with a `prefix`."""
        model = served.model(requests[0].model)
        self._num_choices = asked.num_choices
        self._wants_usage = asked.wants_usage
        self._most_draft_tokens = served.most_draft_tokens(requests[0])
        self._trace_url = served.settings.trace_url
        self._summaries = [generation_pb2.GenerateSummary() for _ in requests]
        self._head = {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": fingerprint(model),
        }

    @abstractmethod
    def ended(self, index: int, finish_reason: str) -> dict[str, Any]:
        """Return the choice of an event that says why a choice ended."""

    def end(self, index: int, summary: generation_pb2.GenerateSummary) -> bytes:
        """Return an event that says why a choice ended; that of the only one has what was measured."""
        self._summaries[index] = summary
        is_last = len(self._summaries) == 1 and not self._wants_usage
        return self.event([self.ended(index, told.finish_reason(summary))], **(self._measures() if is_last else {}))

    def finish(self) -> bytes:
        """Return the usage where it was asked for, and what was measured where no end had it."""
        if self._wants_usage:
            return self.event([], **self._counts()) + _DONE
        return (self.event([], **self._measures()) if len(self._summaries) > 1 else b"") + _DONE

    def fail(self, error: ServiceError) -> bytes:
        """Return an error as an event."""
        return event(error_body(error, ""))

    def event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        """Return an event with these choices."""
        usage = {"usage": None} if self._wants_usage else {}
        return event(self._head | {"choices": choices} | usage | more)

    def complete(self, answers: Sequence[Answer], choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a whole answer with these choices."""
        self._summaries = [answer.summary for answer in answers]
        return self._head | {"choices": choices} | self._counts()

    def _counts(self) -> dict[str, Any]:
        return {"usage": told.usage(self._summaries, self._num_choices)} | self._measures()

    def _measures(self) -> dict[str, Any]:
        return told.measures(self._summaries, self._most_draft_tokens, self._trace_url)
