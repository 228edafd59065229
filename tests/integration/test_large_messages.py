"""What a request asks for may be larger than the request: it is refused with a reason, and never by gRPC's limit."""

import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue

from outrider.v1 import common_pb2, generation_pb2, model_pb2, model_pb2_grpc, target_pb2, target_pb2_grpc
from services.engine.model.vocabulary import Vocabulary
from services.frame.server import FrameServer
from tests.foreign_models import llama, tiny_tokenizer
from tests.integration.asking import reason_of, unary_error
from tests.integration.services import (
    Client,
    client_of,
    generate_request,
    orchestrator_server,
    target_server,
)

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

LIMIT = 65_536
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE.value[0]
# One token each: the spaces between them belong to the digits.
DIGITS = "7 " * 20_000
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chat = {"tokenizer.chat_template": GGUFValue(TEMPLATE, GGUFValueType.STRING)}
    return llama(tmp_path_factory.mktemp("chat") / "model.gguf", tokenizer=tiny_tokenizer() | chat)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(model: Path) -> AsyncIterator[FrameServer]:
    async with target_server(model, max_message_bytes=LIMIT, context=1 << 16, slots=1) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub(target: FrameServer) -> AsyncIterator[target_pb2_grpc.TargetServiceStub]:
    async with grpc.aio.insecure_channel(target.address) as channel:
        yield target_pb2_grpc.TargetServiceStub(channel)


async def test_tokens_larger_than_their_text(stub: target_pb2_grpc.TargetServiceStub) -> None:
    request = target_pb2.TokenizeRequest(text=DIGITS)
    assert request.ByteSize() < LIMIT
    status = await unary_error(stub.Tokenize(request))
    assert (status.code, reason_of(status)) == (OUT_OF_RANGE, "PROMPT_TOO_LONG")
    assert str(LIMIT) in status.message
    assert len((await stub.Tokenize(target_pb2.TokenizeRequest(text=DIGITS[:20_000]))).tokens) >= 10_000


async def test_text_larger_than_its_tokens(stub: target_pb2_grpc.TargetServiceStub) -> None:
    spellings = tiny_tokenizer()["tokenizer.ggml.tokens"].value
    # The first two are control tokens, which stand for no text.
    long_token = max(range(2, len(spellings)), key=lambda token: len(spellings[token]))
    request = target_pb2.DetokenizeRequest(tokens=[long_token] * 30_000)
    assert request.ByteSize() < LIMIT
    status = await unary_error(stub.Detokenize(request))
    assert reason_of(status) == "INVALID_REQUEST"
    assert "send the tokens in parts" in status.message
    assert (await stub.Detokenize(target_pb2.DetokenizeRequest(tokens=[long_token] * 100))).text


@pytest.mark.parametrize("num_characters", [40_000, 28_000])
async def test_a_chat_larger_than_its_messages(stub: target_pb2_grpc.TargetServiceStub, num_characters: int) -> None:
    """By its tokens alone, and together with its text."""
    message = target_pb2.ChatMessage(role="user", content=("~ " * num_characters)[:num_characters])
    status = await unary_error(stub.ApplyChatTemplate(target_pb2.ApplyChatTemplateRequest(messages=[message])))
    assert (status.code, reason_of(status)) == (OUT_OF_RANGE, "PROMPT_TOO_LONG")


async def test_no_part_of_the_token_table_is_too_large(target: FrameServer) -> None:
    async with grpc.aio.insecure_channel(target.address) as channel:
        stub = model_pb2_grpc.ModelServiceStub(channel)
        parts = [part async for part in stub.GetTokenTable(model_pb2.GetTokenTableRequest(max_entries=4096))]
    assert [part.first_token for part in parts[1:]] == [part.first_token + len(part.entries) for part in parts[:-1]]
    assert sum(len(part.entries) for part in parts) == 512


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(target: FrameServer) -> AsyncIterator[Client]:
    """Of an orchestrator that takes larger messages than its target."""
    async with AsyncExitStack() as stack:
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address))
        yield await stack.enter_async_context(client_of(orchestrator))


async def _refusal(client: Client, request: generation_pb2.GenerateRequest) -> str:
    async def ask() -> None:
        async for _ in client.stub.Generate(request):
            pass

    status = await unary_error(ask())
    assert status.code == OUT_OF_RANGE
    assert (await client.status()).num_active == 0
    assert len((await client.generate(max_tokens=2)).ids) == 2
    return reason_of(status)


async def test_a_prompt_that_the_target_has_no_message_for(client: Client) -> None:
    assert await _refusal(client, generate_request(DIGITS)) == "PROMPT_TOO_LONG"
    assert await _refusal(client, generate_request("7 " * 50_000)) == "PROMPT_TOO_LONG"
    message = target_pb2.ChatMessage(role="user", content=DIGITS)
    chat = generation_pb2.ChatPrompt(messages=[message])
    assert await _refusal(client, generate_request(chat=chat)) == "PROMPT_TOO_LONG"


async def test_prompt_tokens_that_the_target_has_no_message_for(client: Client) -> None:
    """Its context would hold them. Nobody tries it again and again: it would be as large then."""
    tokens = generation_pb2.TokenPrompt(tokens=[300] * 60_000)
    assert await _refusal(client, generate_request(tokens=tokens)) == "PROMPT_TOO_LONG"


async def test_an_orchestrator_knows_what_its_own_messages_hold(target: FrameServer) -> None:
    orchestrator = orchestrator_server(target.address, max_message_bytes=LIMIT)
    async with orchestrator, client_of(orchestrator) as client:
        tokens = generation_pb2.TokenPrompt(tokens=[300] * 30_000)
        assert await _refusal(client, generate_request(tokens=tokens)) == "PROMPT_TOO_LONG"
        bias = common_pb2.Sampling(logit_bias={token: 1.0 for token in range(513)})
        status = await unary_error(_drained(client, generate_request(sampling=bias)))
        assert reason_of(status) == "INVALID_SAMPLING"


async def _drained(client: Client, request: generation_pb2.GenerateRequest) -> None:
    async for _ in client.stub.Generate(request):
        pass


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The threads in which texts were made of ids."""
    names: list[str] = []
    detokenize = Vocabulary.detokenize

    def note(*arguments: object, **options: object) -> bytes:
        names.append(threading.current_thread().name)
        return detokenize(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Vocabulary, "detokenize", note)
    yield names


async def test_many_ids_keep_nobody_waiting(stub: target_pb2_grpc.TargetServiceStub, threads: list[str]) -> None:
    await stub.Detokenize(target_pb2.DetokenizeRequest(tokens=[5] * 20_000))
    await stub.Detokenize(target_pb2.DetokenizeRequest(tokens=[5] * 20))
    assert threads[0].startswith("texts")
    assert not threads[1].startswith("texts")
