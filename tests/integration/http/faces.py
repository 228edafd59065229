"""Orchestrators that serve HTTP, and clients of both faces."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue

from services.frame.server import FrameServer
from tests.foreign_models import llama, tiny_tokenizer
from tests.integration.services import Client, Gate, client_of, orchestrator_server, target_server
from tests.waiting import PATIENCE_S

# A model thinks where it is let.
TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% if enable_thinking %}<think>\n{% else %}<think></think>{% endif %}"
    "{% endif %}"
)


def url_of(orchestrator: FrameServer) -> str:
    """Where an orchestrator serves HTTP."""
    return str(orchestrator._application.http.url)  # type: ignore[attr-defined]


@asynccontextmanager
async def http_client(orchestrator: FrameServer) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=url_of(orchestrator), timeout=PATIENCE_S) as client:
        yield client


async def events_of(client: httpx2.AsyncClient, path: str, body: dict[str, Any]) -> list[Any]:
    """The data of the events that answer a request."""
    answer = await client.post(path, json=body | {"stream": True})
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def chatting_model(folder: Path) -> Path:
    """A random model with a template for chats."""
    template = {"tokenizer.chat_template": GGUFValue(TEMPLATE, GGUFValueType.STRING)}
    return llama(folder / "chatting.gguf", tokenizer=tiny_tokenizer() | template)


@dataclass
class Faces:
    """One orchestrator over gRPC and HTTP, and the gate of its target."""

    grpc: Client
    http: httpx2.AsyncClient
    orchestrator: FrameServer
    target: FrameServer
    gate: Gate


@asynccontextmanager
async def both_faces(model: Path, **settings: Any) -> AsyncIterator[Faces]:
    """An orchestrator of a target alone."""
    gate = Gate()
    async with (
        target_server(model, gate, context=512, slots=4) as target,
        orchestrator_server(target.address, http="127.0.0.1:0", **settings) as orchestrator,
        client_of(orchestrator) as client,
        http_client(orchestrator) as http,
    ):
        yield Faces(client, http, orchestrator, target, gate)
