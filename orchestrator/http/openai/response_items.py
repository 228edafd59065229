"""What a response is made of: thoughts, messages and calls of tools, each written piece by piece."""

import uuid
from typing import Any

from outrider.v1 import generation_pb2


class OpenItem:
    """An item of the output that is being written, and what the events of its kind are called."""

    events: str
    prefix: str

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = f"{self.prefix}_{uuid.uuid4().hex}"
        self.texts: list[str] = []

    @property
    def text(self) -> str:
        """What was written so far."""
        return "".join(self.texts)

    def part(self) -> dict[str, Any] | None:
        """Return its one part; a call has none."""
        return None

    def done(self) -> dict[str, Any]:
        """Return what the end of its text tells."""
        return {"text": self.text}

    def to_json(self, status: str) -> dict[str, Any]:
        """Return the item; it is empty where it has just begun."""
        raise NotImplementedError


class ThoughtItem(OpenItem):
    """What was thought."""

    events, prefix = "response.reasoning_text", "rs"

    def part(self) -> dict[str, Any]:
        """Return its one part."""
        return {"type": "reasoning_text", "text": self.text}

    def to_json(self, status: str) -> dict[str, Any]:
        """Return the item."""
        content = [] if status == "in_progress" else [self.part()]
        return {"type": "reasoning", "id": self.id, "summary": [], "content": content, "status": status}


class MessageItem(OpenItem):
    """What was said."""

    events, prefix = "response.output_text", "msg"

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.log_probabilities: list[dict[str, Any]] = []

    def part(self) -> dict[str, Any]:
        """Return its one part."""
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.log_probabilities}

    def done(self) -> dict[str, Any]:
        """Return what the end of its text tells."""
        return {"text": self.text, "logprobs": self.log_probabilities}

    def to_json(self, status: str) -> dict[str, Any]:
        """Return the item."""
        content = [] if status == "in_progress" else [self.part()]
        return {"type": "message", "id": self.id, "role": "assistant", "content": content, "status": status}


class CallItem(OpenItem):
    """A call of a tool; its text are the arguments."""

    events, prefix = "response.function_call_arguments", "fc"

    def __init__(self, index: int, call: generation_pb2.ToolCallDelta) -> None:
        super().__init__(index)
        self.call_index = call.index
        self.is_withdrawn = False
        self._name = call.name
        self._call_id = call.id

    def done(self) -> dict[str, Any]:
        """Return what the end of the arguments tells."""
        return {"name": self._name, "arguments": self.text}

    def to_json(self, status: str) -> dict[str, Any]:
        """Return the item."""
        return {
            "type": "function_call",
            "id": self.id,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "" if status == "in_progress" else self.text,
            "status": "incomplete" if self.is_withdrawn else status,
        }
