"""One request to an ASGI application, message by message, as a test wants its client to behave."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Exchange:
    """A request with a JSON body, and what came of it. The client vanishes once `gone` is set."""

    path: str
    body: Any
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    # Called before each message is taken.
    on_send: Callable[["Exchange"], Awaitable[object]] | None = None
    messages: list[dict[str, Any]] = field(default_factory=list)
    is_aborted: bool = False
    is_read: bool = False

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def content(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages).decode()

    @property
    def events(self) -> list[Any]:
        """The data of the events: JSON, or the text where it is none."""
        lines = [line.removeprefix("data: ") for line in self.content.splitlines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    @property
    def is_complete(self) -> bool:
        return not self.messages[-1].get("more_body", True)

    async def run(self, app: Any) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [(b"content-type", b"application/json"), (b"traceparent", b"00-1-2-01")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {"abort": self._abort},
        }
        await app(scope, self._receive, self._send)

    def _abort(self) -> None:
        self.is_aborted = True

    async def _receive(self) -> dict[str, Any]:
        if not self.is_read:
            self.is_read = True
            return {"type": "http.request", "body": json.dumps(self.body).encode(), "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if self.on_send is not None:
            await self.on_send(self)
        self.messages.append(message)
