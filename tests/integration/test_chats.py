"""Chats through the orchestrator: what reaches the template, and how the answer is parted."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue
from google.protobuf import struct_pb2

from outrider.v1 import generation_pb2, target_pb2
from tests.foreign_models import llama, tiny_tokenizer
from tests.integration.asking import reason_of, unary_error
from tests.integration.services import (
    Client,
    Generated,
    client_of,
    generate_request,
    orchestrator_server,
    target_server,
)

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

TEMPLATES = {
    "chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}"
    "{% if enable_thinking %}<think>\n{% else %}<think></think>{% endif %}",
    "chat_template.broken": "{% if %}",
    "chat_template.tool_use": "{{ tools[0] }}",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    fields = {f"tokenizer.{name}": GGUFValue(text, GGUFValueType.STRING) for name, text in TEMPLATES.items()}
    path: Path = llama(tmp_path_factory.mktemp("chats") / "model.gguf", tokenizer=tiny_tokenizer() | fields)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(path, context=256, slots=2))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address))
        yield await stack.enter_async_context(client_of(orchestrator))


def chat(content: str = "hello", name: str = "", **variables: object) -> generation_pb2.ChatPrompt:
    values = struct_pb2.Struct()
    values.update(variables)
    messages = [target_pb2.ChatMessage(role="user", content=content)]
    return generation_pb2.ChatPrompt(messages=messages, template_variables=values, template_name=name)


def parts(generated: Generated) -> tuple[str, str, str]:
    """The text, its content and its reasoning."""
    chunks = generated.chunks
    joined = ("".join(getattr(chunk, part) for chunk in chunks) for part in ("text", "content", "reasoning"))
    text, content, reasoning = joined
    return text, content, reasoning


async def test_an_answer_that_thinks(client: Client) -> None:
    text, content, reasoning = parts(await client.generate(chat=chat(enable_thinking=True), max_tokens=16))
    assert text
    assert (content, reasoning) == ("", text.rstrip("\n"))


async def test_an_answer_that_does_not(client: Client) -> None:
    text, content, reasoning = parts(await client.generate(chat=chat(enable_thinking=False), max_tokens=16))
    assert text
    assert (content, reasoning) == (text, "")


async def test_text_is_not_parted(client: Client) -> None:
    text, content, reasoning = parts(await client.generate("<think>", max_tokens=16))
    assert text
    assert (content, reasoning) == ("", "")


async def test_a_template_by_name(client: Client) -> None:
    named = await client.generate(chat=chat(name="tool_use", tools=["abc"]), max_tokens=1)
    meant = await client.generate(chat=chat(tools=["abc"]), max_tokens=1)
    plain = await client.generate("abc", max_tokens=1)
    prompts = [generated.summary.usage.num_prompt_tokens for generated in (named, meant, plain)]
    assert len(set(prompts)) == 1


REFUSED = {
    "a broken template": (chat(name="broken"), grpc.StatusCode.FAILED_PRECONDITION, "CHAT_TEMPLATE"),
    "an unknown template": (chat(name="other"), grpc.StatusCode.FAILED_PRECONDITION, "CHAT_TEMPLATE"),
    "a reserved variable": (chat(messages=[]), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    "a variable that is no number": (
        chat(numbers=[float("nan")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    ),
    "a hopeless prompt": (chat("a b " * 500_000), grpc.StatusCode.OUT_OF_RANGE, "PROMPT_TOO_LONG"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refusals(client: Client, name: str) -> None:
    prompt, code, reason = REFUSED[name]

    async def ask() -> None:
        async for _ in client.stub.Generate(generate_request(chat=prompt)):
            pass

    status = await unary_error(ask())
    assert (status.code, reason_of(status)) == (code.value[0], reason)


async def test_a_prompt_that_is_too_long_says_what_to_do(client: Client) -> None:
    async def ask() -> None:
        async for _ in client.stub.Generate(generate_request(chat=chat("a b " * 1000))):
            pass

    status = await unary_error(ask())
    assert status.message.endswith(" tokens or more, a slot holds 256: shorten it, or give the target more --context")
