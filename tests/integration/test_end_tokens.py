"""Tokens that a file forbids, and tokens that end a generation beside those of the file."""

import logging
from collections.abc import Collection
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue

from outrider.v1 import common_pb2, generation_pb2
from services.engine.errors import ModelLoadError
from services.engine.model import vocabulary
from services.engine.model.model import Model
from services.frame.rpc.errors import error_from_rpc
from tests.foreign_models import llama, tiny_tokenizer
from tests.integration.conftest import Pair
from tests.integration.services import (
    OFF,
    Client,
    client_of,
    draft_server,
    fixed,
    model_of,
    orchestrator_server,
    target_server,
)

pytestmark = pytest.mark.integration

DRAFTS = {
    "plain": OFF,
    "drafted": fixed(3),
    "lookup": generation_pb2.Speculation(
        mode=generation_pb2.SPECULATION_MODE_FIXED, num_draft_tokens=3, drafter=generation_pb2.DRAFTER_NGRAM
    ),
}
ASKED = {
    "greedy": common_pb2.Sampling(),
    "biased": common_pb2.Sampling(logit_bias={}),
    "sampled": common_pb2.Sampling(temperature=0.7),
    "truncated": common_pb2.Sampling(temperature=0.7, top_k=20, top_p=0.9, min_p=0.01),
    "penalised": common_pb2.Sampling(temperature=0.7, presence_penalty=0.5),
}


def suppressing(path: Path, tokens: Collection[int]) -> Path:
    """Write a model whose file forbids some tokens, and names one that it does not have."""
    array = GGUFValue([*sorted(tokens), 10**6], GGUFValueType.ARRAY, GGUFValueType.INT32)
    return llama(path, tokenizer=tiny_tokenizer() | {"tokenizer.ggml.suppress_tokens": array})


def asked(sampling: common_pb2.Sampling, bias: Collection[int] = ()) -> dict[str, Any]:
    """A request for tokens, the forbidden ones with the highest bias."""
    params = common_pb2.Sampling(logit_bias=dict.fromkeys(bias, 100.0))
    params.MergeFrom(sampling)
    return {"sampling": params, "max_tokens": 24}


@pytest.mark.parametrize("drafts_know", [True, False], ids=["the draft's file too", "the target's file only"])
async def test_what_the_file_forbids_is_never_said(tmp_path: Path, drafts_know: bool) -> None:
    free = llama(tmp_path / "free.gguf")
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(free))
        server = await stack.enter_async_context(orchestrator_server(target.address))
        client = await stack.enter_async_context(client_of(server))
        said = {token for sampling in ASKED.values() for token in (await client.generate(**asked(sampling))).ids}
    # Whatever the model says when it is free to, and its end.
    forbidden = said | {1}
    bound = suppressing(tmp_path / "bound.gguf", forbidden)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(bound))
        draft = await stack.enter_async_context(draft_server(bound if drafts_know else free))
        server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        assert list((await model_of(target)).suppressed_tokens) == sorted(forbidden)
        for sampling in ASKED.values():
            answers = [
                await client.generate(**asked(sampling, forbidden), seed=3, speculation=speculation)
                for speculation in DRAFTS.values()
            ]
            for answer in answers:
                assert not forbidden & set(answer.ids)
                assert answer.ids == answers[0].ids
            drafted = answers[1].counts
            # The draft is the target: without the forbidden tokens it says the same.
            assert drafted.num_accepted_tokens == drafted.num_draft_tokens > 0


async def test_a_request_may_forbid_tokens(pair: Pair) -> None:
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        draft = await stack.enter_async_context(draft_server(pair.draft))
        server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        free = await client.generate(speculation=OFF)
        sampling = common_pb2.Sampling(suppressed_tokens=sorted(set(free.ids[4:12])))
        expected = await client.generate(sampling=sampling, speculation=OFF)
        generated = await client.generate(sampling=sampling, speculation=fixed(4))
    assert generated.ids == expected.ids != free.ids
    assert not set(generated.ids) & set(sampling.suppressed_tokens)
    assert generated.counts.num_accepted_tokens > 0


async def test_what_decides_the_text_is_in_the_numerics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = suppressing(tmp_path / "model.gguf", [40])
    async with target_server(model) as target:
        own = await model_of(target)
    async with target_server(model, end_tokens="41,42") as target:
        ending = await model_of(target)
    monkeypatch.setattr(vocabulary, "_suppressed", lambda handle: [])
    async with target_server(model) as target:
        free = await model_of(target)
    assert len({info.numerics_fingerprint for info in (own, ending, free)}) == 3
    assert len({info.tokenizer_fingerprint for info in (own, ending, free)}) == 1
    assert set(ending.end_of_generation_tokens) == {*own.end_of_generation_tokens, 41, 42}


def test_an_end_token_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="--end-tokens: token 512 is outside the vocabulary of 512 ids"):
        Model(llama(tmp_path / "model.gguf"), end_tokens=[3, 512])


async def _refused(client: Client, **fields: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await client.generate(**fields)
    error = error_from_rpc(info.value)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in error.field_violations] == ["stop_tokens"]
    return error.reason


async def test_further_end_tokens(pair: Pair) -> None:
    """Named when the target starts, or with a request: the text ends before them."""
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target))
        draft = await stack.enter_async_context(draft_server(pair.draft))
        server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        free = await client.generate(speculation=OFF)
        place = next(index for index in range(8, 48) if free.ids[index] not in free.ids[:index])
        token = free.ids[place]
        text = "".join(each.text for each in free.tokens[:place])
        for speculation in DRAFTS.values():
            stopped = await client.generate(stop_tokens=[token], speculation=speculation)
            assert (stopped.ids, stopped.text) == (free.ids[: place + 1], text)
            assert stopped.summary.finish_reason == generation_pb2.FINISH_REASON_STOP
        assert await _refused(client, stop_tokens=[4096]) == "TOKEN_OUT_OF_RANGE"
        assert await _refused(client, stop_tokens=range(65)) == "INVALID_REQUEST"
        ending = await stack.enter_async_context(target_server(pair.target, end_tokens=str(token)))
        server = await stack.enter_async_context(orchestrator_server(ending.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        # What differs in its end only is a pair.
        await client.until_draft(is_available=True)
        for speculation in DRAFTS.values():
            ended = await client.generate(speculation=speculation)
            assert (ended.ids, ended.text) == (free.ids[: place + 1], text)
            assert ended.summary.finish_reason == generation_pb2.FINISH_REASON_END_OF_GENERATION


@pytest.mark.parametrize(("context", "is_told"), [(128, True), (64, False)])
async def test_a_context_beyond_the_trained_one_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, context: int, is_told: bool
) -> None:
    model = llama(tmp_path / "model.gguf", {"context_length": 64})
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(model, context=context))
        server = await stack.enter_async_context(orchestrator_server(target.address))
        client = await stack.enter_async_context(client_of(server))
        for _ in range(2):
            await client.generate(max_tokens=2)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    expected = f"--context is {context}, but model.gguf was trained with 64: text beyond that may be worse"
    assert warnings == [expected] * is_told
