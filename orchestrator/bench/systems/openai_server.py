"""Any server that streams completions by OpenAI's protocol."""

import json
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

from orchestrator.bench.load.prompts import Prompt
from orchestrator.bench.load.streams import Ask, Chunk, Stream
from orchestrator.bench.systems.http import post_events, request
from orchestrator.bench.systems.system import Setting

# Where the key is, first that of the bench alone.
KEY_VARIABLES = ("OUTRIDER_BENCH_PEER_KEY", "OPENAI_API_KEY")


class OpenAiServer:
    """A server at a base address, such as http://host:8000/v1, which speculates as it is set."""

    name = "peer"

    def __init__(self, url: str, model: str = "") -> None:
        """`model` is the name that it knows its model by; the first that it lists if absent."""
        self.settings: Sequence[Setting] = [Setting("as it is set")]
        self._url = url.rstrip("/")
        self._model = model

    async def start(self, running: AsyncExitStack) -> dict[str, str]:
        """Find out what it serves, where that is not known: it runs already. Raises ConnectionError."""
        if not self._model:
            told = b"".join([part async for part in request("GET", f"{self._url}/models", headers=_headers())])
            try:
                self._model = str(json.loads(told)["data"][0]["id"])
            except (ValueError, LookupError, TypeError) as error:
                raise ConnectionError(f"{self._url}/models lists no model: name one with --peer-model") from error
        return {}

    def asking(self, prompt: Prompt, setting: Setting, num_tokens: int) -> Ask:
        """Return what asks for one stream; see `System.asking`."""
        question: dict[str, Any] = {"model": self._model, "max_tokens": num_tokens, "temperature": 0, "seed": 1}
        question |= {"stream": True, "stream_options": {"include_usage": True}}
        if prompt.messages:
            question["messages"] = [{"role": role, "content": content} for role, content in prompt.messages]
        else:
            question["prompt"] = prompt.text
        url = f"{self._url}/{'chat/completions' if prompt.messages else 'completions'}"

        async def ask(stream: Stream) -> None:
            async for events in post_events(url, question, _headers()):
                if num_arrived := sum(map(_has_text, events)):
                    stream.add(num_arrived)
                usages = [event["usage"] for event in events if event.get("usage")]
                stream.summary |= {"num_tokens": usages[-1]["completion_tokens"]} if usages else {}
            if num_tokens := stream.summary.get("num_tokens"):
                stream.chunks = scaled(stream.chunks, num_tokens)

        return ask

    def processes(self, setting: Setting) -> dict[str, int]:
        """Return nothing: whose processes these are is not known."""
        return {}


def _headers() -> dict[str, str]:
    key = next((value for name in KEY_VARIABLES if (value := os.environ.get(name))), "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _has_text(event: dict[str, Any]) -> bool:
    for choice in event.get("choices", ()):
        delta = choice.get("delta", {})
        if choice.get("text") or delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"):
            return True
    return False


def scaled(chunks: Sequence[Chunk], num_tokens: int) -> list[Chunk]:
    """Return the chunks with so many tokens in all, where events are not tokens: shared out evenly among the events.

    Chunks that get none are left out.
    """
    num_events = sum(chunk.num_tokens for chunk in chunks)
    if num_events == num_tokens or not num_events:
        return list(chunks)
    shared, seen, given = [], 0, 0
    for chunk in chunks:
        seen += chunk.num_tokens
        total = round(num_tokens * seen / num_events)
        if total > given:
            shared.append(Chunk(chunk.at_s, total - given))
        given = max(given, total)
    return shared
