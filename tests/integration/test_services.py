"""What every server tells of itself, with the clients that everybody has; and the target's tokenizer."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from outrider.v1 import common_pb2, model_pb2, model_pb2_grpc, target_pb2, target_pb2_grpc
from services.engine.sampling import SAMPLER_VERSION
from services.frame.server import FrameServer
from tests.integration.conftest import VOCABULARY, Pair, System
from tests.integration.services import model_of, target_server

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

SERVICES = {
    "target": {"outrider.v1.TargetService", "outrider.v1.ModelService"},
    "draft": {"outrider.v1.DraftService", "outrider.v1.ModelService"},
    "orchestrator": {"outrider.v1.GenerationService"},
}


async def _health(server: FrameServer, service: str) -> int:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


async def _table(server: FrameServer, max_entries: int = 0) -> list[model_pb2.GetTokenTableResponse]:
    async with grpc.aio.insecure_channel(server.address) as channel:
        call = model_pb2_grpc.ModelServiceStub(channel).GetTokenTable(
            model_pb2.GetTokenTableRequest(max_entries=max_entries)
        )
        return [part async for part in call]


@pytest.mark.parametrize("name", SERVICES)
async def test_health(shared_system: System, name: str) -> None:
    server: FrameServer = getattr(shared_system, name)
    for service in ("", *SERVICES[name]):
        assert await _health(server, service) == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await _health(server, "outrider.v1.NoSuchService")
    assert info.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", SERVICES)
async def test_reflection(shared_system: System, name: str) -> None:
    server: FrameServer = getattr(shared_system, name)

    def reflect() -> dict[str, set[str]]:
        """The methods of each service, as a command-line client would find them."""
        with grpc.insecure_channel(server.address) as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            found = {}
            for service in database.get_services():
                file = database.FindFileContainingSymbol(service)
                (descriptor,) = (each for each in file.service if f"{file.package}.{each.name}" == service)
                found[service] = {method.name for method in descriptor.method}
            return found

    found = await asyncio.to_thread(reflect)
    reflections = {f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha")}
    assert set(found) == SERVICES[name] | reflections | {"grpc.health.v1.Health"}
    if name == "target":
        assert {"VerifyBatch", "VerifyStream", "Tokenize"} <= found["outrider.v1.TargetService"]


async def test_what_is_served(shared_system: System) -> None:
    target, draft = await model_of(shared_system.target), await model_of(shared_system.draft)
    assert (target.name, draft.name) == ("outrider-target", "outrider-draft")
    assert target.num_parameters > draft.num_parameters
    for model in (target, draft):
        assert model.architecture == "llama"
        assert model.context_length == 256
        assert model.vocabulary_size == VOCABULARY
        assert model.quantization == "all F32"
        assert model.device == "CPU"
        assert model.num_slots == 4
        assert model.exact_mode == common_pb2.EXACT_MODE_OFF
        assert model.max_draft_tokens == 16
        assert model.sampler_version == SAMPLER_VERSION
        assert (model.HasField("bos_token"), model.bos_token) == (True, 0)
        assert list(model.end_of_generation_tokens) == [1]
        assert not model.has_chat_template
        # Keys and values of 4 slots of 512 positions, as padding takes some, 2 bytes an element; 8 layers of 384
        # dimensions, and 2 of 128.
        assert model.cache_bytes == 4 * 512 * 2 * 2 * (8 * 384 if model is target else 2 * 128)
        assert model.model_bytes >= 4 * model.num_parameters
    assert target.tokenizer_fingerprint == draft.tokenizer_fingerprint
    assert target.numerics_fingerprint != draft.numerics_fingerprint


async def test_equal_numerics_have_equal_fingerprints(shared_system: System, pair: Pair) -> None:
    expected = (await model_of(shared_system.target)).numerics_fingerprint
    async with target_server(pair.target) as same:
        assert (await model_of(same)).numerics_fingerprint == expected
    async with target_server(pair.target, threads=2) as other:
        assert (await model_of(other)).numerics_fingerprint != expected


@pytest.mark.parametrize(
    ("max_entries", "sizes"),
    [(0, [2048, 2048]), (2000, [2000, 2000, 96]), (VOCABULARY, [VOCABULARY]), (10**6, [VOCABULARY])],
)
async def test_the_token_table_comes_in_parts(shared_system: System, max_entries: int, sizes: list[int]) -> None:
    parts = await _table(shared_system.target, max_entries)
    assert [len(part.entries) for part in parts] == sizes
    assert [part.first_token for part in parts] == [sum(sizes[:index]) for index in range(len(sizes))]
    assert {part.vocabulary_size for part in parts} == {VOCABULARY}
    fingerprint = (await model_of(shared_system.target)).tokenizer_fingerprint
    assert {part.tokenizer_fingerprint for part in parts} == {fingerprint}


async def test_the_token_table(shared_system: System) -> None:
    target = [entry for part in await _table(shared_system.target) for entry in part.entries]
    draft = [entry for part in await _table(shared_system.draft) for entry in part.entries]
    assert target == draft
    bos, eos, *others = target
    for entry, ends in ((bos, False), (eos, True)):
        assert (entry.attribute, entry.output) == (common_pb2.TOKEN_ATTRIBUTE_CONTROL, b"")
        assert entry.is_end_of_generation == ends
    # Every byte can be said, and nothing is said twice.
    said = [entry.output for entry in others]
    assert {bytes([byte]) for byte in range(256)} <= set(said)
    assert len(set(said)) == len(said)
    assert not any(entry.is_end_of_generation for entry in others)


@pytest.mark.parametrize(
    "text",
    ["", "def f():\n\treturn 0\r\n", "  two  spaces ", "naïve 😀 日本", "<|bos|><|endoftext|>", "\0\x01", "a" * 1000],
)
async def test_text_to_tokens_and_back(shared_system: System, text: str) -> None:
    entries = [entry for part in await _table(shared_system.target) for entry in part.entries]
    async with grpc.aio.insecure_channel(shared_system.target.address) as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        tokens = (await stub.Tokenize(target_pb2.TokenizeRequest(text=text))).tokens
        with_bos = (await stub.Tokenize(target_pb2.TokenizeRequest(text=text, add_bos=True))).tokens
        back = (await stub.Detokenize(target_pb2.DetokenizeRequest(tokens=with_bos))).text
    assert list(with_bos) == [0, *tokens]
    assert back == text.encode()
    assert b"".join(entries[token].output for token in tokens) == text.encode()
    # What a user wrote is text, even where it spells a control token.
    assert not {0, 1} & set(tokens)


async def test_control_tokens_are_read_where_they_are_meant(shared_system: System) -> None:
    async with grpc.aio.insecure_channel(shared_system.target.address) as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        request = target_pb2.TokenizeRequest(text="<|bos|>a<|endoftext|>", parse_special=True)
        tokens = (await stub.Tokenize(request)).tokens
    assert (tokens[0], tokens[-1], len(tokens)) == (0, 1, 3)
