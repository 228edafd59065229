"""A chat in English with a public model; skipped where its package is not installed."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from orchestrator.stack.named import SMOLLM2
from outrider.v1 import generation_pb2, target_pb2
from services.frame.program.startup import StartupError
from tests.integration.services import OFF, Client, client_of, fixed, orchestrator_server, target_server

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[Client]:
    try:
        path = SMOLLM2.find()
    except StartupError as error:
        pytest.skip(str(error))
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(path, context=512, slots=2))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address, drafter="auto"))
        yield await stack.enter_async_context(client_of(orchestrator))


def asked(*said: str) -> generation_pb2.ChatPrompt:
    """A chat in which user and assistant take turns."""
    roles = ("user", "assistant")
    messages = [target_pb2.ChatMessage(role=roles[number % 2], content=content) for number, content in enumerate(said)]
    return generation_pb2.ChatPrompt(messages=messages)


async def test_a_question_is_answered_and_the_answer_ends(client: Client) -> None:
    question = "What is the capital of France, and what is it famous for?"
    answer = await client.generate(chat=asked(question), temperature=0, max_tokens=128)
    assert "Paris" in answer.text
    assert "<|im_end|>" not in answer.text
    assert answer.summary.finish_reason == generation_pb2.FINISH_REASON_END_OF_GENERATION


async def test_what_stands_in_the_chat_is_looked_up(client: Client) -> None:
    """The text is the same without drafts."""
    said = "The ferry to the island leaves the old harbour every morning at seven, and comes back at noon."
    chat = asked(f"Say this again, word for word: {said}", said, "Once more, word for word.")
    drafted = await client.generate(chat=chat, temperature=0, speculation=fixed(4), max_tokens=32)
    assert [each.drafter for each in drafted.counts.drafters] == [generation_pb2.DRAFTER_NGRAM]
    assert drafted.counts.num_accepted_tokens > 0
    plain = await client.generate(chat=chat, temperature=0, speculation=OFF, max_tokens=32)
    assert plain.text == drafted.text
