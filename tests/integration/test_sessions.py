"""What services keep of a session between requests, and what they say when they have not kept it."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc
from services.engine.model.model import Model
from services.engine.runtime.interface import Segment
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.sampling import SamplingParams, reference
from tests.integration.conftest import VOCABULARY, Pair
from tests.integration.services import draft_server, target_server

pytestmark = pytest.mark.integration

PROMPT = [0, 7, 300, 21, 5, 44, 45, 46]


def digest(tokens: Sequence[int]) -> bytes:
    """The digest of a prefix, as the protocol defines it."""
    result = bytes(16)
    for token in tokens:
        result = hashlib.sha256(result + token.to_bytes(4, "little")).digest()[:16]
    return result


def context(tokens: Sequence[int], cached_length: int = 0, session_id: str = "a") -> common_pb2.Context:
    return common_pb2.Context(
        session_id=session_id,
        cached_length=cached_length,
        cached_digest=digest(tokens[:cached_length]) if cached_length else b"",
        tokens=tokens[cached_length:],
    )


class Target:
    """Verifies over unary calls, with rising ids."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = target_pb2_grpc.TargetServiceStub(channel)
        self._request_id = 0

    async def verify(
        self, context: common_pb2.Context, draft_tokens: Sequence[int] = (), **fields: Any
    ) -> target_pb2.VerifyBatchResponse:
        self._request_id += 1
        return await self._stub.VerifyBatch(
            target_pb2.VerifyBatchRequest(
                request_id=self._request_id, context=context, draft_tokens=draft_tokens, **fields
            )
        )


@pytest.fixture
async def target(pair: Pair) -> AsyncIterator[Target]:
    async with target_server(pair.target, slots=2) as server, grpc.aio.insecure_channel(server.address) as channel:
        yield Target(channel)


class Draft:
    """Proposes over unary calls, with rising ids."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = draft_pb2_grpc.DraftServiceStub(channel)
        self._request_id = 0

    async def propose(self, context: common_pb2.Context, num_draft_tokens: int, **fields: Any) -> Any:
        self._request_id += 1
        return await self._stub.Propose(
            draft_pb2.ProposeRequest(
                request_id=self._request_id, context=context, num_draft_tokens=num_draft_tokens, **fields
            )
        )


@pytest.fixture
async def draft(pair: Pair) -> AsyncIterator[Draft]:
    async with draft_server(pair.draft) as server, grpc.aio.insecure_channel(server.address) as channel:
        yield Draft(channel)


async def test_the_cached_prefix_is_not_evaluated_again(target: Target) -> None:
    first = await target.verify(context(PROMPT))
    assert first.held_length == first.timings.batch_rows == len(PROMPT)
    longer = [*PROMPT, first.result.next_token]
    second = await target.verify(context(longer, len(PROMPT)))
    assert second.timings.batch_rows == 1
    assert second.held_length == len(longer)
    # As if from scratch.
    scratch = await target.verify(context(longer, session_id="b"))
    assert scratch.result == second.result


async def test_accepted_draft_tokens_are_kept_and_rejected_ones_are_not(target: Target) -> None:
    text: list[int] = []
    for _ in range(3):
        text.append((await target.verify(context([*PROMPT, *text]))).result.next_token)
    wrong = (text[2] + 1) % VOCABULARY
    reply = await target.verify(context(PROMPT), [*text[:2], wrong])
    assert (reply.result.num_accepted, reply.result.next_token) == (2, text[2])
    assert reply.held_length == len(PROMPT) + 2
    longer = [*PROMPT, *text]
    assert (await target.verify(context(longer, len(PROMPT) + 2))).timings.batch_rows == 1
    miss = await target.verify(context([*PROMPT, *text[:2], wrong, 9], len(PROMPT) + 3))
    assert miss.cache_miss == common_pb2.CacheMiss(held_length=len(longer), held_digest=digest(longer))


async def test_what_was_never_held_is_a_miss(target: Target) -> None:
    reply = await target.verify(context(PROMPT, 4))
    assert reply.WhichOneof("outcome") == "cache_miss"
    assert reply.cache_miss == common_pb2.CacheMiss(held_length=0)
    assert reply.held_length == reply.timings.num_decodes == 0


async def test_an_evicted_session_is_a_miss(target: Target) -> None:
    for name in ("a", "b", "c"):
        await target.verify(context(PROMPT, session_id=name))
    assert (await target.verify(context([*PROMPT, 9], 8, "c"))).WhichOneof("outcome") == "result"
    assert (await target.verify(context([*PROMPT, 9], 8, "a"))).WhichOneof("outcome") == "cache_miss"
    assert (await target.verify(context([*PROMPT, 9], 0, "a"))).WhichOneof("outcome") == "result"


async def test_going_back_and_on_another_way(target: Target) -> None:
    await target.verify(context([*PROMPT, 9, 10, 11]))
    other = [*PROMPT[:5], 99]
    reply = await target.verify(context(other, 5))
    assert (reply.held_length, reply.timings.batch_rows) == (6, 1)
    assert reply.result == (await target.verify(context(other, session_id="b"))).result


async def test_a_proposal_is_the_drafts_own_text(draft: Draft) -> None:
    text: list[int] = []
    for _ in range(5):
        reply = await draft.propose(context([*PROMPT, *text], session_id="scratch"), 1)
        text.append(reply.result.draft_tokens[0].token)
    reply = await draft.propose(context(PROMPT), 5)
    assert [draft_token.token for draft_token in reply.result.draft_tokens] == text
    # The last one is not evaluated.
    assert reply.held_length == len(PROMPT) + 4
    for draft_token in reply.result.draft_tokens:
        assert 0 < draft_token.probability <= 1
        assert draft_token.margin > 0
    # What was accepted of it is not evaluated again.
    again = await draft.propose(context([*PROMPT, *text], len(PROMPT) + 4), 1)
    assert again.timings.batch_rows == again.timings.num_decodes == 1


async def test_a_proposal_stops_where_confidence_falls(draft: Draft) -> None:
    sampling = common_pb2.Sampling(temperature=1.0, seed=3)
    everything = (await draft.propose(context(PROMPT), 8, sampling=sampling)).result.draft_tokens
    joint = 1.0
    for count, draft_token in enumerate(everything):
        joint *= draft_token.probability
        just_above = min(1.0, joint * 1.001)
        reply = await draft.propose(context(PROMPT), 8, sampling=sampling, min_joint_confidence=just_above)
        assert len(reply.result.draft_tokens) == count
        assert reply.WhichOneof("outcome") == "result", "an empty proposal is one too"


async def test_the_same_seed_gives_the_same_proposal_and_another_does_not(draft: Draft) -> None:
    proposals = [
        [
            draft_token.token
            for draft_token in (
                await draft.propose(context(PROMPT), 8, sampling=common_pb2.Sampling(temperature=1.5, seed=seed))
            ).result.draft_tokens
        ]
        for seed in (1, 1, 2)
    ]
    assert proposals[0] == proposals[1] != proposals[2]


async def test_the_end_of_the_text_ends_the_proposal(draft: Draft) -> None:
    bias = common_pb2.Sampling(logit_bias={1: 100.0})
    reply = await draft.propose(context(PROMPT), 8, sampling=bias)
    assert [draft_token.token for draft_token in reply.result.draft_tokens] == [1]
    assert reply.result.is_end_of_generation


async def test_the_end_of_the_text_is_never_an_accepted_token(target: Target) -> None:
    bias = common_pb2.Sampling(logit_bias={1: 100.0})
    request = target_pb2.VerifyBatchRequest(request_id=99, context=context(PROMPT), draft_tokens=[1, 1], sampling=bias)
    reply = await target._stub.VerifyBatch(request)
    assert (reply.result.num_accepted, reply.result.next_token) == (0, 1)
    assert reply.result.is_end_of_generation


SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 0.8, "seed": 4},
    "truncated": {"temperature": 1.2, "seed": 5, "top_k": 40, "top_p": 0.9},
    "penalised": {"temperature": 0.7, "seed": 6, "repetition_penalty": 1.4, "frequency_penalty": 0.3},
    "biased": {"temperature": 0.9, "seed": 7, "top_p": 0.8, "logit_bias": {7: 6.0, 300: -3.0, 44: 2.5}},
}


def _reference(path: Path, tokens: Sequence[int], name: str) -> list[tuple[int, NDArray[np.float64]]]:
    """The token after the prompt and after each token that follows it, and the log-probabilities of all."""
    model = Model(path)
    options = RuntimeOptions(num_slots=1, context_length=256, max_batch_rows=64, num_threads=1, cache_in_f32=True)
    runtime = LlamaRuntime(model, options)
    (rows,) = runtime.decode([Segment(0, 0, tokens, len(tokens) - len(PROMPT) + 1)])
    found = []
    for length, row in enumerate(rows.astype(np.float64), len(PROMPT)):
        token = reference.sample(row.tolist(), length, SamplingParams(**SAMPLING[name]), tokens[:length])
        found.append((token, row - row.max() - np.log(np.exp(row - row.max()).sum())))
    runtime.close()
    model.close()
    return found


@pytest.mark.parametrize("name", SAMPLING)
async def test_verified_tokens_and_log_probabilities_are_the_models(pair: Pair, target: Target, name: str) -> None:
    """What is reported knows nothing of temperature, bias, penalties and truncation."""
    sampling = common_pb2.Sampling(**SAMPLING[name])
    text: list[int] = []
    for _ in range(3):
        text.append((await target.verify(context([*PROMPT, *text]), sampling=sampling)).result.next_token)
    wrong = (text[2] + 1) % VOCABULARY
    reply = await target.verify(context(PROMPT), [*text[:2], wrong, 9], sampling=sampling, num_log_probabilities=5)
    assert (reply.result.num_accepted, reply.result.next_token) == (2, text[2])
    expected = _reference(pair.target, [*PROMPT, *text[:2]], name)
    assert [token for token, _ in expected] == text
    for token, told, (_, every) in zip(text, reply.result.log_probabilities, expected, strict=True):
        assert told.chosen.token == token
        assert told.chosen.log_probability == pytest.approx(every[token], abs=1e-3)
        assert [top.log_probability for top in told.top] == pytest.approx(sorted(every)[:-6:-1], abs=1e-3)
        assert [every[top.token] for top in told.top] == pytest.approx(sorted(every)[:-6:-1], abs=1e-3)


@pytest.mark.parametrize("name", SAMPLING)
async def test_draft_tokens_and_probabilities_are_the_models(pair: Pair, draft: Draft, name: str) -> None:
    reply = await draft.propose(context(PROMPT), 5, sampling=common_pb2.Sampling(**SAMPLING[name]))
    draft_tokens = reply.result.draft_tokens
    text = [draft_token.token for draft_token in draft_tokens]
    expected = _reference(pair.draft, [*PROMPT, *text[:-1]], name)
    assert text == [token for token, _ in expected]
    for draft_token, (token, every) in zip(draft_tokens, expected, strict=True):
        assert draft_token.probability == pytest.approx(np.exp(every[token]), rel=1e-3)
