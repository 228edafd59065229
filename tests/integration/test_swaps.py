"""A pair in motion: other drafts and targets take the place of those that were there, and ids that only one knows."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from gguf import TokenType

from models.llama_gguf import read_llama, write_llama
from models.tiny import write_tiny_model
from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc, generation_pb2
from services.frame.rpc.errors import error_from_rpc
from services.frame.server import FrameServer
from tests.integration.conftest import VOCABULARY, Pair, System
from tests.integration.services import (
    OFF,
    Client,
    Gate,
    client_of,
    draft_server,
    fixed,
    model_of,
    orchestrator_server,
    target_server,
)
from tests.ports import free_port
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.integration

SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 1}
TURN, END_OF_TURN = VOCABULARY, VOCABULARY + 1


async def test_a_draft_refuses_who_compared_another_one(system: System) -> None:
    own = (await model_of(system.draft)).tokenizer_fingerprint
    async with grpc.aio.insecure_channel(system.draft.address) as channel:
        stub = draft_pb2_grpc.DraftServiceStub(channel)
        for number, fingerprint in enumerate(("", own), 1):
            asked = draft_pb2.ProposeRequest(
                request_id=number,
                context=common_pb2.Context(session_id="a", tokens=[0, 5]),
                num_draft_tokens=1,
                tokenizer_fingerprint=fingerprint,
            )
            assert len((await stub.Propose(asked)).result.draft_tokens) == 1
        asked.tokenizer_fingerprint, asked.request_id = "another", 3
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await stub.Propose(asked)
    error = error_from_rpc(info.value)
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOKENIZER_CHANGED")


async def test_a_draft_of_other_tokens_that_takes_its_place_under_load_is_never_used(
    pair: Pair, tmp_path: Path
) -> None:
    other = write_tiny_model(tmp_path / "draft.gguf", vocab_size=300, num_layers=1)
    port, gate = free_port(), Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        server = await stack.enter_async_context(orchestrator_server(target.address, f"127.0.0.1:{port}"))
        client = await stack.enter_async_context(client_of(server))
        expected = await client.generate(speculation=OFF)

        async def load(until: asyncio.Event) -> None:
            while not until.is_set():
                assert (await client.generate(speculation=fixed(4))).ids == expected.ids

        is_told = asyncio.Event()
        async with draft_server(pair.draft, port=port):
            await client.until_draft(is_available=True)
            tasks = [asyncio.create_task(load(is_told)) for _ in range(3)]
            while not (await client.status()).speculation.num_drafts:
                await asyncio.sleep(0.005)
        async with asyncio.timeout(PATIENCE_S), draft_server(other, gate, port=port):
            num_decodes = gate.num_decodes
            while "does not fit" not in (await client.status()).draft.reason:
                await asyncio.sleep(0.005)
            for _ in range(3):
                assert (await client.generate(speculation=fixed(4))).counts.num_drafts == 0
                status = await client.status()
                assert not status.draft.is_available
                assert status.draft.reason.startswith("the draft does not fit the target: ")
            is_told.set()
            await asyncio.gather(*tasks)
            assert gate.num_decodes == num_decodes, "it was not asked once"
        told = await client.generate(speculation=fixed(4))
        assert told.summary.draft_problem


async def _stopped(target: FrameServer, gate: Gate, client: Client) -> None:
    """Stop a target that holds a decode back, so that what was asked is not answered."""
    stopping = asyncio.create_task(target.stop(0))
    async with asyncio.timeout(PATIENCE_S):
        while (await client.status()).target.is_available:
            await asyncio.sleep(0.005)
    gate.open()
    await stopping


@pytest.mark.parametrize("asked", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    ("smaller", "length"), [({"max_draft_tokens": 2}, None), ({"context": 44}, 44)], ids=["drafts", "context"]
)
async def test_a_request_goes_on_with_what_a_smaller_target_takes(
    pair: Pair, asked: dict[str, Any], smaller: dict[str, int], length: int | None
) -> None:
    port, gate = free_port(), Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, gate, port=port))
        draft = await stack.enter_async_context(draft_server(pair.draft))
        server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        expected = await client.generate(**asked, speculation=OFF)
        gate.hold_after(4)
        task = asyncio.create_task(client.generate(**asked, speculation=fixed(4)))
        await gate.reached()
        await _stopped(target, gate, client)
        await stack.enter_async_context(target_server(pair.target, port=port, **smaller))
        generated = await task
    if length is None:
        assert generated.ids == expected.ids
        assert generated.summary.finish_reason == generation_pb2.FINISH_REASON_MAX_TOKENS
    else:
        num_tokens = length - generated.summary.usage.num_prompt_tokens
        assert generated.ids == expected.ids[:num_tokens]
        assert generated.summary.finish_reason == generation_pb2.FINISH_REASON_CONTEXT_FULL


async def test_a_request_goes_on_with_what_the_next_target_of_a_list_takes(pair: Pair) -> None:
    gate = Gate()
    async with AsyncExitStack() as stack:
        first = target_server(pair.target, gate)
        await first.start()
        second = await stack.enter_async_context(target_server(pair.target, max_draft_tokens=1, context=44))
        draft = await stack.enter_async_context(draft_server(pair.draft))
        addresses = f"ipv4:{first.address},{second.address}"
        server = await stack.enter_async_context(orchestrator_server(addresses, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        expected = await client.generate(speculation=OFF)
        gate.hold_after(4)
        task = asyncio.create_task(client.generate(speculation=fixed(4)))
        await gate.reached()
        await _stopped(first, gate, client)
        generated = await task
    assert generated.ids == expected.ids[: 44 - generated.summary.usage.num_prompt_tokens]
    assert generated.summary.finish_reason == generation_pb2.FINISH_REASON_CONTEXT_FULL
    # The first one took more at a time.
    assert [len(chunk.tokens) for chunk in generated.chunks if len(chunk.tokens) > 2]
    assert all(len(chunk.tokens) <= 2 for chunk in generated.chunks[-4:])


def _with_chat_tokens(source: Path, path: Path) -> Path:
    """Write a model with three tokens more than it had."""
    config, tensors, vocabulary = read_llama(source)
    tensors = dict(tensors)
    for name in {"token_embd.weight", "output.weight"} & tensors.keys():
        tensors[name] = np.concatenate([tensors[name], np.zeros((3, config.dim), np.float32)])
    kinds = [TokenType.CONTROL, TokenType.CONTROL, TokenType.USER_DEFINED]
    longer = replace(
        vocabulary,
        tokens=[*vocabulary.tokens, "<|turn|>", "<|end of turn|>", "<|tool|>"],
        token_types=[*vocabulary.types(), *map(int, kinds)],
    )
    write_llama(path, replace(config, vocab_size=config.vocab_size + 3), tensors, longer, name="chat", file_type="F32")
    return path


@pytest.mark.parametrize("asked", [{}, SAMPLED], ids=["greedy", "sampled"])
async def test_ids_that_only_the_target_has_do_not_silence_the_draft(
    pair: Pair, tmp_path: Path, asked: dict[str, Any]
) -> None:
    sampling = common_pb2.Sampling(temperature=asked.get("temperature", 0.0), logit_bias={END_OF_TURN: -100.0})
    fields: dict[str, Any] = {"seed": 1, "sampling": sampling}
    async with AsyncExitStack() as stack:
        chat = _with_chat_tokens(pair.target, tmp_path / "target.gguf")
        target = await stack.enter_async_context(target_server(chat))
        draft = await stack.enter_async_context(draft_server(pair.draft))
        server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        body = (await client.generate(max_tokens=8)).ids
        fields["tokens"] = generation_pb2.TokenPrompt(tokens=[0, TURN, *body, END_OF_TURN, TURN, *body])
        expected = await client.generate(**fields, speculation=OFF)
        generated = await client.generate(**fields, speculation=fixed(4))
        status = await client.status()
    assert generated.ids == expected.ids
    assert generated.counts.num_accepted_tokens > 0
    assert generated.counts.num_fallbacks == 0
    assert generated.summary.draft_problem == ""
    assert list(status.draft.notes) == [
        f"tokens {TURN} '<|turn|>' to {TURN + 2} '<|tool|>' are known to the target only"
    ]


async def test_a_draft_with_a_smaller_context_drafts_to_its_end(pair: Pair) -> None:
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        draft = await stack.enter_async_context(draft_server(pair.draft, context=32))
        server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        expected = await client.generate(speculation=OFF)
        generated = await client.generate(speculation=fixed(4))
        status = await client.status()
    assert generated.ids == expected.ids
    problem = "the context of the draft is full: it holds 32 tokens"
    assert generated.summary.draft_problem == problem
    assert generated.counts.num_fallbacks == 0
    assert status.draft.is_available
    assert list(status.draft.notes) == [f"the last request went on without it: {problem}"]
    assert _last_drafted(generated.chunks) >= 32 - generated.summary.usage.num_prompt_tokens


def _last_drafted(chunks: Sequence[generation_pb2.GenerateChunk]) -> int:
    """How many tokens had been generated when the last cycle with accepted draft tokens ended."""
    num_tokens = last = 0
    for chunk in chunks:
        num_tokens += len(chunk.tokens)
        if len(chunk.tokens) > 1:
            last = num_tokens
    return last


@pytest.mark.parametrize(
    ("is_target", "limit", "problem"),
    [
        (True, 0, "the target is set to take no draft tokens"),
        (False, 0, "the draft service is set to propose no tokens"),
    ],
)
async def test_who_takes_or_gives_no_drafts_is_told(pair: Pair, is_target: bool, limit: int, problem: str) -> None:
    settings = {"max_draft_tokens": limit}
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, **(settings if is_target else {})))
        draft = await stack.enter_async_context(draft_server(pair.draft, **({} if is_target else settings)))
        server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        assert (await client.generate(max_tokens=4)).summary.draft_problem == problem
        assert (await client.generate(max_tokens=4, speculation=OFF)).summary.draft_problem == ""
