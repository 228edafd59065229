"""What the target service makes of its engine's answers, and of requests that cannot be served."""

import asyncio
import math
import time
from typing import Any

import grpc
import pytest

from outrider.v1 import common_pb2, target_pb2
from services.engine import wire
from services.engine.sampling import SamplingParams
from services.engine.scheduling.engine import Engine
from services.frame.rpc.errors import ServiceError
from services.session.exchange import MAX_REMEMBERED_SESSIONS
from tests.unit.engine.fakes import VOCABULARY_SIZE, FakeRuntime, fake_logits, true_text
from tests.unit.engine.works import at_the_gate, blocked, running
from tests.unit.target.fakes import MAX_DRAFT_TOKENS, fake_target
from tests.waiting import PATIENCE_S, soon

PROMPT = [1, 2, 3]
# Handlers never look at the call.
ANY_CALL: Any = None


def request(
    request_id: int = 1,
    session_id: str = "a",
    tokens: list[int] | None = None,
    draft_tokens: list[int] | None = None,
    **fields: Any,
) -> target_pb2.VerifyBatchRequest:
    return target_pb2.VerifyBatchRequest(
        request_id=request_id,
        context=common_pb2.Context(session_id=session_id, tokens=PROMPT if tokens is None else tokens),
        draft_tokens=draft_tokens or [],
        **fields,
    )


async def verify(engine: Engine, runtime: FakeRuntime, message: target_pb2.VerifyBatchRequest) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        return await fake_target(engine, runtime).VerifyBatch(message, ANY_CALL)


async def refusal(engine: Engine, runtime: FakeRuntime, message: target_pb2.VerifyBatchRequest) -> ServiceError:
    with pytest.raises(ServiceError) as info:
        await verify(engine, runtime, message)
    return info.value


async def test_a_verdict() -> None:
    runtime = FakeRuntime()
    text = true_text(PROMPT, 3)
    wrong = (text[2] + 1) % VOCABULARY_SIZE
    async with running(runtime) as engine:
        reply = await verify(engine, runtime, request(7, draft_tokens=[*text[:2], wrong]))
    assert reply.request_id == 7
    assert reply.held_length == len(PROMPT) + 2
    assert (reply.result.num_accepted, reply.result.next_token) == (2, text[2])
    assert runtime.num_decodes == reply.timings.num_decodes == 1
    assert reply.timings.batch_rows == len(PROMPT) + 3
    assert 0 < reply.timings.decode_ms <= reply.timings.computed_ms


async def test_a_verdict_of_nothing_is_a_result_too() -> None:
    """Whatever its fields are: no accepted token, and next token 0."""
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        reply = await verify(engine, runtime, request(sampling=common_pb2.Sampling(logit_bias={0: 100.0})))
    assert (reply.result.num_accepted, reply.result.next_token) == (0, 0)
    assert reply.WhichOneof("outcome") == "result"


@pytest.mark.parametrize("num_log_probabilities", [0, 3])
async def test_log_probabilities_of_every_committed_token(num_log_probabilities: int) -> None:
    runtime = FakeRuntime()
    text = true_text(PROMPT, 2)
    message = request(
        draft_tokens=[text[0], (text[1] + 1) % VOCABULARY_SIZE], num_log_probabilities=num_log_probabilities
    )
    async with running(runtime) as engine:
        reply = await verify(engine, runtime, message)
    assert len(reply.result.log_probabilities) == 2
    for length, told in enumerate(reply.result.log_probabilities):
        logits = fake_logits((*PROMPT, *text[:length])).astype(float)
        expected = logits - math.log(sum(map(math.exp, logits)))
        assert told.chosen.token == text[length]
        assert told.chosen.log_probability == pytest.approx(expected[text[length]], abs=1e-5)
        assert [top.token for top in told.top] == list((-logits).argsort()[:num_log_probabilities])
        for top in told.top:
            assert top.log_probability == pytest.approx(expected[top.token], abs=1e-5)


async def test_no_log_probabilities_unless_asked_for() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        assert not (await verify(engine, runtime, request())).result.log_probabilities


@pytest.mark.parametrize(
    ("sampling", "params"),
    [
        pytest.param(common_pb2.Sampling(), SamplingParams(), id="defaults"),
        pytest.param(
            common_pb2.Sampling(temperature=0.9, seed=2**64 - 1),
            SamplingParams(temperature=0.9, seed=2**64 - 1),
            id="seed",
        ),
        pytest.param(
            common_pb2.Sampling(temperature=2.0, top_k=2, seed=3),
            SamplingParams(temperature=2.0, top_k=2, seed=3),
            id="k",
        ),
        pytest.param(
            common_pb2.Sampling(temperature=2.0, top_p=0.3, seed=3),
            SamplingParams(temperature=2.0, top_p=0.3, seed=3),
            id="p",
        ),
        pytest.param(
            common_pb2.Sampling(temperature=2.0, min_p=0.5, seed=3),
            SamplingParams(temperature=2.0, min_p=0.5, seed=3),
            id="min-p",
        ),
        pytest.param(
            common_pb2.Sampling(
                repetition_penalty=3.0,
                presence_penalty=1.0,
                frequency_penalty=0.5,
                penalty_last_n=5,
                logit_bias={4: 1.5},
            ),
            SamplingParams(
                repetition_penalty=3.0,
                presence_penalty=1.0,
                frequency_penalty=0.5,
                penalty_last_n=5,
                logit_bias={4: 1.5},
            ),
            id="penalties and bias",
        ),
        pytest.param(
            common_pb2.Sampling(repetition_penalty=3.0), SamplingParams(repetition_penalty=3.0), id="default window"
        ),
        pytest.param(
            common_pb2.Sampling(repetition_penalty=3.0, penalty_last_n=0),
            SamplingParams(repetition_penalty=3.0, penalty_last_n=0),
            id="no window",
        ),
    ],
)
async def test_every_sampling_parameter_arrives(sampling: common_pb2.Sampling, params: SamplingParams) -> None:
    text = true_text(PROMPT, 12, params)
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        target = fake_target(engine, runtime)
        sequence = list(PROMPT)
        for index, token in enumerate(text):
            message = request(index, tokens=sequence, sampling=sampling)
            reply = await target.VerifyBatch(message, ANY_CALL)
            assert reply.result.next_token == token
            sequence.append(token)
        # Drafted tokens count as if they had been decoded.
        message = request(20, draft_tokens=text[:MAX_DRAFT_TOKENS], sampling=sampling)
        reply = await target.VerifyBatch(message, ANY_CALL)
        assert (reply.result.num_accepted, reply.result.next_token) == (MAX_DRAFT_TOKENS, text[MAX_DRAFT_TOKENS])


async def test_a_full_queue_says_when_to_come_again() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime, max_queued=1) as engine:
        async with blocked(runtime):
            tasks = [asyncio.create_task(verify(engine, runtime, request(session_id="a")))]
            await at_the_gate(runtime)
            tasks.append(asyncio.create_task(verify(engine, runtime, request(session_id="b"))))
            await asyncio.sleep(0)
            error = await refusal(engine, runtime, request(session_id="c"))
        await asyncio.gather(*tasks)
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert error.retry_after_s


async def test_a_stopped_engine_is_not_ready() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        pass
    error = await refusal(engine, runtime, request())
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")
    assert error.retry_after_s


async def test_an_engine_that_stops_meanwhile_is_not_ready() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        async with blocked(runtime):
            first = asyncio.create_task(verify(engine, runtime, request(session_id="a")))
            await at_the_gate(runtime)
            waiting = asyncio.create_task(refusal(engine, runtime, request(session_id="b")))
            await asyncio.sleep(0)
            stopping = asyncio.create_task(asyncio.to_thread(engine.stop))
            await soon(lambda: engine._is_stopping)
        error = await waiting
        assert (await first).result.next_token == true_text(PROMPT, 1)[0]
        await stopping
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_READY")


async def test_a_request_that_comes_too_late_to_its_turn() -> None:
    runtime = FakeRuntime(num_slots=1)
    async with running(runtime) as engine:
        async with blocked(runtime):
            first = asyncio.create_task(verify(engine, runtime, request(session_id="a")))
            await at_the_gate(runtime)
            late = asyncio.create_task(refusal(engine, runtime, request(session_id="b", timeout_ms=1)))
            await soon(lambda: engine.num_unanswered == 2)
            is_over_s = time.perf_counter() + 1e-3
            await soon(lambda: time.perf_counter() > is_over_s)
        await first
        error = await late
    assert (error.code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "TIMEOUT")
    assert runtime.num_decodes == 1


async def test_a_model_that_fails() -> None:
    runtime = FakeRuntime()
    runtime.failing = {0}
    async with running(runtime) as engine:
        error = await refusal(engine, runtime, request())
        assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "DECODE_FAILED")
        assert (await verify(engine, runtime, request())).result.next_token == true_text(PROMPT, 1)[0]


async def test_a_context_that_just_fits() -> None:
    runtime = FakeRuntime(context_length=20)
    tokens = [1] * (20 - MAX_DRAFT_TOKENS)
    async with running(runtime) as engine:
        await verify(engine, runtime, request(1, tokens=tokens, draft_tokens=[1] * MAX_DRAFT_TOKENS))
        error = await refusal(engine, runtime, request(2, tokens=[*tokens, 1], draft_tokens=[1] * MAX_DRAFT_TOKENS))
    assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_TOO_LONG")


async def test_answers_are_remembered_for_so_many_sessions_and_no_more() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        servicer = fake_target(engine, runtime)
        for index in range(MAX_REMEMBERED_SESSIONS + 20):
            await servicer.VerifyBatch(request(session_id=f"session {index}"), ANY_CALL)
    remembered = servicer._verify.exchange._requests
    assert len(remembered) == MAX_REMEMBERED_SESSIONS
    assert "session 20" in remembered
    assert "session 19" not in remembered


async def test_what_is_remembered_of_sampling_parameters_is_small() -> None:
    """Callers could have gigabytes remembered otherwise."""
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        before = wire._remembered_sampling.cache_info().currsize
        for temperature in (0.25, 0.5):
            biases = dict.fromkeys(range(VOCABULARY_SIZE), temperature)
            small = common_pb2.Sampling(temperature=temperature, logit_bias=biases)
            await verify(engine, runtime, request(sampling=small))
        assert wire._remembered_sampling.cache_info().currsize == before + 2
        for temperature in (0.25, 0.5):
            large = common_pb2.Sampling(temperature=temperature, logit_bias=dict.fromkeys(range(1000), 1.0))
            await refusal(engine, runtime, request(sampling=large))
        checked = wire.checked_sampling(large, 1000)
        assert checked.logit_bias == dict.fromkeys(range(1000), 1.0)
        assert wire._remembered_sampling.cache_info().currsize == before + 2


async def test_tokens_beyond_the_room_are_not_even_looked_at() -> None:
    runtime = FakeRuntime()
    async with running(runtime) as engine:
        error = await refusal(engine, runtime, request(tokens=[VOCABULARY_SIZE] * (runtime.context_length + 1)))
    assert (error.code, error.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CONTEXT_TOO_LONG")
