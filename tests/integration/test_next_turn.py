"""The next turn of a chat is a request of its own, and evaluates nothing that the last one has evaluated."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from models.llama_gguf import read_llama, write_llama
from orchestrator.stack.bundled import bundled_pair
from outrider.v1 import generation_pb2, target_pb2
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.scheduler import Decode
from services.frame.server import FrameServer
from tests.integration.http.faces import http_client
from tests.integration.services import (
    OFF,
    Client,
    Generated,
    client_of,
    draft_server,
    fixed,
    orchestrator_server,
    target_server,
    until_idle,
)

pytestmark = pytest.mark.integration

TEMPLATE = (
    "{% for message in messages %}# {{ message.role }}\n{{ message.content }}#\n{% endfor %}"
    "{% if add_generation_prompt %}# assistant\n{% endif %}"
)
NUM_TOKENS = 40
FIRST = "class Queue:\n    def __init__(self):\n        self.items = []\n"
SYSTEM = 'import os\nimport sys\n\n\ndef main(argv=None):\n    """Run it."""\n' * 8


@dataclass
class Evaluated:
    """Rows that a service has evaluated."""

    rows: list[int] = field(default_factory=list)

    def note(self, decode: Decode) -> None:
        self.rows.append(decode.num_rows)

    def take(self) -> int:
        """Return how many since the last time."""
        num_rows = sum(self.rows)
        self.rows.clear()
        return num_rows


@dataclass
class System:
    """A client, and what target and draft evaluate."""

    client: Client
    http: httpx2.AsyncClient
    servers: Sequence[FrameServer]
    target: Evaluated
    draft: Evaluated

    async def generate(
        self, chat: Sequence[target_pb2.ChatMessage], speculation: generation_pb2.Speculation
    ) -> tuple[Generated, int, int]:
        """Return an answer, the rows of its prompt that the target has evaluated, and all rows that the draft has.

        Those of the prompt are what is left beside one for each token but the first, where nothing is drafted.
        """
        self.target.take(), self.draft.take()
        prompt = generation_pb2.ChatPrompt(messages=chat)
        generated = await self.client.generate(chat=prompt, max_tokens=NUM_TOKENS, speculation=speculation)
        for server in self.servers:
            await until_idle(server)
        num_tokens = generated.summary.usage.num_generated_tokens
        return generated, self.target.take() - (num_tokens - 1), self.draft.take()


def evaluated(server: FrameServer) -> Evaluated:
    engine: Engine = server._application.engine  # type: ignore[attr-defined]
    counts = Evaluated()
    engine.observe(counts.note)
    return counts


@pytest_asyncio.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    """The bundled pair with a chat template, and two slots."""
    for path in bundled_pair():
        config, tensors, vocabulary = read_llama(path)
        chatting = replace(vocabulary, chat_template=TEMPLATE)
        write_llama(tmp_path / path.name, config, tensors, chatting, name=path.stem)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(tmp_path / "target.gguf", context=1024, slots=2))
        draft = await stack.enter_async_context(draft_server(tmp_path / "draft.gguf", context=1024, slots=2))
        orchestrator = await stack.enter_async_context(
            orchestrator_server(target.address, draft.address, http="127.0.0.1:0")
        )
        client = await stack.enter_async_context(client_of(orchestrator))
        http = await stack.enter_async_context(http_client(orchestrator))
        await client.until_draft(is_available=True)
        yield System(client, http, [target, draft], evaluated(target), evaluated(draft))


def said(role: str, content: str) -> target_pb2.ChatMessage:
    return target_pb2.ChatMessage(role=role, content=content)


def answered(generated: Generated) -> target_pb2.ChatMessage:
    return said("assistant", "".join(chunk.content for chunk in generated.chunks))


def held(generated: Generated) -> int:
    """Tokens that a service has evaluated after an answer: all but the last one."""
    usage = generated.summary.usage
    return usage.num_prompt_tokens + usage.num_generated_tokens - 1


async def test_a_next_turn_evaluates_what_is_new(system: System) -> None:
    chat = [said("user", FIRST)]
    generated, num_rows, _ = await system.generate(chat, OFF)
    assert num_rows == generated.summary.usage.num_prompt_tokens
    for _ in range(3):
        before = held(generated)
        chat += [answered(generated), said("user", "Go on.\n")]
        generated, num_rows, _ = await system.generate(chat, OFF)
        assert num_rows == generated.summary.usage.num_prompt_tokens - before < 40


async def test_so_it_does_over_http(system: System) -> None:
    """A request has nothing that names a session."""
    chat: list[dict[str, str]] = []
    num_held = 0
    for content in (FIRST, "Go on.\n", "And now?\n"):
        chat.append({"role": "user", "content": content})
        asked = {"messages": chat, "max_tokens": NUM_TOKENS, "temperature": 0, "outrider": {"mode": "off"}}
        system.target.take()
        told = (await system.http.post("/v1/chat/completions", json=asked)).json()
        await until_idle(system.servers[0])
        usage = told["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == num_held
        num_rows = system.target.take() - (usage["completion_tokens"] - 1)
        assert num_rows == usage["prompt_tokens"] - num_held
        num_held = usage["total_tokens"] - 1
        chat.append({"role": "assistant", "content": told["choices"][0]["message"]["content"]})


async def test_so_does_the_draft(system: System) -> None:
    chat = [said("user", FIRST * 20)]
    generated, _, num_rows = await system.generate(chat, fixed(3))
    assert num_rows >= generated.summary.usage.num_prompt_tokens > 8 * NUM_TOKENS
    for _ in range(2):
        before = held(generated)
        chat += [answered(generated), said("user", "Go on.\n")]
        generated, _, num_rows = await system.generate(chat, fixed(3))
        # A token takes hardly more than one row of the draft, and a rejected draft three.
        assert num_rows <= generated.summary.usage.num_prompt_tokens - before + 4 * NUM_TOKENS


async def test_others_that_begin_alike_leave_it_its_place(system: System) -> None:
    """As the requests of an agent beside its chat: they share a system prompt, and nothing else."""
    chat = [said("system", SYSTEM), said("user", FIRST * 20)]
    generated, _, _ = await system.generate(chat, OFF)
    for name in "abc":
        await system.generate([said("system", SYSTEM), said("user", f"def {name}(")], OFF)
    before = held(generated)
    chat += [answered(generated), said("user", "Go on.\n")]
    generated, num_rows, _ = await system.generate(chat, OFF)
    assert num_rows == generated.summary.usage.num_prompt_tokens - before


async def test_a_prompt_that_begins_otherwise_shares_nothing(system: System) -> None:
    """Or else the tests above would show nothing."""
    generated, _, _ = await system.generate([said("user", FIRST)], OFF)
    chat = [said("system", "x"), said("user", FIRST), answered(generated), said("user", "Go on.\n")]
    generated, num_rows, _ = await system.generate(chat, OFF)
    assert num_rows > generated.summary.usage.num_prompt_tokens / 2
