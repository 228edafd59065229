"""Bad requests, over every carrier: the status, the stable reason, and a service that goes on."""

import math
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from outrider.v1 import common_pb2, generation_pb2, target_pb2, target_pb2_grpc
from services.frame.rpc.errors import error_from_rpc
from tests.integration.asking import Service, outcome, read, reason_of, unary_error
from tests.integration.conftest import VOCABULARY, System
from tests.integration.services import fixed, generate_request, until_idle

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

NAN, INFINITY = math.nan, math.inf
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE
# Breaks a good request, and what it is answered.
Case = tuple[Callable[[Any], object], grpc.StatusCode, str]


def _context(**fields: Any) -> Callable[[Any], object]:
    return lambda request: request.context.MergeFrom(common_pb2.Context(**fields))


def _tokens(*tokens: int) -> Callable[[Any], object]:
    def change(request: Any) -> None:
        request.context.tokens[:] = tokens

    return change


def _session(session_id: str) -> Callable[[Any], object]:
    return lambda request: setattr(request.context, "session_id", session_id)


def _draft(*tokens: int) -> Callable[[Any], object]:
    return lambda request: request.draft_tokens.extend(tokens)


def _field(name: str, value: object) -> Callable[[Any], object]:
    return lambda request: setattr(request, name, value)


def _sampling(**fields: Any) -> Case:
    sampling = common_pb2.Sampling(**fields)
    return lambda request: request.sampling.CopyFrom(sampling), INVALID_ARGUMENT, "INVALID_SAMPLING"


# What is wrong in the same way for both services.
SHARED_CASES: dict[str, Case] = {
    "empty context": (_tokens(), INVALID_ARGUMENT, "EMPTY_CONTEXT"),
    "token out of range": (_tokens(0, VOCABULARY, 1), INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE"),
    "token far out of range": (_tokens(2**32 - 1), INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE"),
    "context too long": (_tokens(*[7] * 257), OUT_OF_RANGE, "CONTEXT_TOO_LONG"),
    "cached length too long": (
        _context(cached_length=2**32 - 1, cached_digest=bytes(16)),
        OUT_OF_RANGE,
        "CONTEXT_TOO_LONG",
    ),
    "digest missing": (_context(cached_length=2), INVALID_ARGUMENT, "INVALID_DIGEST"),
    "digest too short": (_context(cached_length=2, cached_digest=bytes(15)), INVALID_ARGUMENT, "INVALID_DIGEST"),
    "digest too long": (_context(cached_length=2, cached_digest=bytes(17)), INVALID_ARGUMENT, "INVALID_DIGEST"),
    "digest of nothing": (_context(cached_digest=bytes(16)), INVALID_ARGUMENT, "INVALID_DIGEST"),
    "session id empty": (_session(""), INVALID_ARGUMENT, "INVALID_SESSION"),
    "session id too long": (_session("x" * 129), INVALID_ARGUMENT, "INVALID_SESSION"),
    "session id unprintable": (_session("a\tb"), INVALID_ARGUMENT, "INVALID_SESSION"),
    "session id not ASCII": (_session("sé"), INVALID_ARGUMENT, "INVALID_SESSION"),
    "temperature NaN": _sampling(temperature=NAN),
    "temperature infinite": _sampling(temperature=INFINITY),
    "temperature negative": _sampling(temperature=-0.5),
    "temperature too high": _sampling(temperature=101.0),
    "top_p 0": _sampling(top_p=0.0),
    "top_p above 1": _sampling(top_p=1.5),
    "top_p NaN": _sampling(top_p=NAN),
    "min_p 1": _sampling(min_p=1.0),
    "min_p negative": _sampling(min_p=-0.1),
    "repetition penalty 0": _sampling(repetition_penalty=0.0),
    "repetition penalty negative": _sampling(repetition_penalty=-1.0),
    "presence penalty NaN": _sampling(presence_penalty=NAN),
    "frequency penalty too high": _sampling(frequency_penalty=101.0),
    "bias of an unknown token": _sampling(logit_bias={VOCABULARY: 1.0}),
    "bias infinite": _sampling(logit_bias={5: -INFINITY}),
    "bias NaN": _sampling(logit_bias={5: NAN}),
}
TARGET_CASES: dict[str, Case] = {
    **SHARED_CASES,
    "draft token out of range": (_draft(1, VOCABULARY), INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE"),
    "draft too long": (_draft(*[1] * 17), OUT_OF_RANGE, "DRAFT_TOO_LONG"),
    "no room for the draft": (
        lambda request: (_tokens(*[7] * 250)(request), request.draft_tokens.extend([1] * 7)),
        OUT_OF_RANGE,
        "CONTEXT_TOO_LONG",
    ),
    "too many log-probabilities": (_field("num_log_probabilities", 21), INVALID_ARGUMENT, "INVALID_REQUEST"),
}
DRAFT_CASES: dict[str, Case] = {
    **SHARED_CASES,
    "no draft tokens": (_field("num_draft_tokens", 0), INVALID_ARGUMENT, "INVALID_REQUEST"),
    "too many draft tokens": (_field("num_draft_tokens", 17), OUT_OF_RANGE, "DRAFT_TOO_LONG"),
    "no room for the draft": (
        lambda request: (_tokens(*[7] * 250)(request), setattr(request, "num_draft_tokens", 8)),
        OUT_OF_RANGE,
        "CONTEXT_TOO_LONG",
    ),
    "confidence negative": (_field("min_joint_confidence", -0.1), INVALID_ARGUMENT, "INVALID_REQUEST"),
    "confidence above 1": (_field("min_joint_confidence", 1.1), INVALID_ARGUMENT, "INVALID_REQUEST"),
    "confidence NaN": (_field("min_joint_confidence", NAN), INVALID_ARGUMENT, "INVALID_REQUEST"),
}


@pytest.mark.parametrize(
    ("service", "case"),
    [
        pytest.param(service, case, id=f"{service} - {name}")
        for service, cases in (("target", TARGET_CASES), ("draft", DRAFT_CASES))
        for name, case in cases.items()
    ],
    indirect=["service"],
)
async def test_what_the_services_refuse(service: Service, case: Case) -> None:
    """The same answer over both carriers, and both go on."""
    change, code, reason = case
    good = await service.unary(service.request(1))
    bad = service.request(2)
    change(bad)
    status = await unary_error(service.unary(bad))
    assert (status.code, reason_of(status)) == (code.value[0], reason)

    stream = service.stream()
    bad.request_id = 3
    await stream.write(service.wrap(bad))
    reply = await read(stream)
    assert reply.request_id == 3
    assert reply.WhichOneof("outcome") == "error"
    assert (reply.error.code, reason_of(reply.error)) == (code.value[0], reason)
    assert reply.error.message == status.message

    # A stream keeps the session of its first message, so one with a bad session is lost.
    if reason != "INVALID_SESSION":
        await stream.write(service.wrap(service.request(4)))
        assert outcome(await read(stream)) == outcome(good)
    assert outcome(await service.unary(service.request(5))) == outcome(good)
    stream.cancel()
    await until_idle(service.server)


async def test_a_message_that_is_too_large(service: Service) -> None:
    huge = service.request(1)
    huge.context.tokens.extend([300] * 9_000_000)
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await service.unary(huge)
    assert info.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await service.unary(service.request(2))).WhichOneof("outcome") == "result"


GENERATE_CASES: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "no prompt": (dict(text=""), INVALID_ARGUMENT, "EMPTY_PROMPT"),
    "no prompt tokens": (dict(tokens=generation_pb2.TokenPrompt()), INVALID_ARGUMENT, "EMPTY_PROMPT"),
    "no messages": (dict(chat=generation_pb2.ChatPrompt()), INVALID_ARGUMENT, "EMPTY_PROMPT"),
    "no chat template": (
        dict(chat=generation_pb2.ChatPrompt(messages=[target_pb2.ChatMessage(role="user", content="hello")])),
        grpc.StatusCode.FAILED_PRECONDITION,
        "CHAT_TEMPLATE",
    ),
    "prompt too long": (
        dict(tokens=generation_pb2.TokenPrompt(tokens=[7] * 256)),
        OUT_OF_RANGE,
        "PROMPT_TOO_LONG",
    ),
    "prompt token out of range": (
        dict(tokens=generation_pb2.TokenPrompt(tokens=[0, VOCABULARY])),
        INVALID_ARGUMENT,
        "TOKEN_OUT_OF_RANGE",
    ),
    "max_tokens 0": (dict(max_tokens=0), INVALID_ARGUMENT, "INVALID_REQUEST"),
    "max_tokens negative": (dict(max_tokens=-1), INVALID_ARGUMENT, "INVALID_REQUEST"),
    "max_tokens negative for a prompt's log-probabilities": (
        dict(max_tokens=-1, num_prompt_log_probabilities=0),
        INVALID_ARGUMENT,
        "INVALID_REQUEST",
    ),
    "too many log-probabilities of the prompt": (
        dict(num_prompt_log_probabilities=21),
        INVALID_ARGUMENT,
        "INVALID_REQUEST",
    ),
    "empty stop string": (dict(stop=["a", ""]), INVALID_ARGUMENT, "INVALID_REQUEST"),
    "too many stop strings": (dict(stop=["a"] * 65), INVALID_ARGUMENT, "INVALID_REQUEST"),
    "too many log-probabilities": (dict(num_log_probabilities=21), INVALID_ARGUMENT, "INVALID_REQUEST"),
    "fixed at 0": (dict(speculation=fixed(0)), INVALID_ARGUMENT, "INVALID_REQUEST"),
    "fixed at too many": (dict(speculation=fixed(17)), INVALID_ARGUMENT, "INVALID_REQUEST"),
    "temperature NaN": (dict(temperature=NAN), INVALID_ARGUMENT, "INVALID_SAMPLING"),
    "temperature negative": (dict(temperature=-1.0), INVALID_ARGUMENT, "INVALID_SAMPLING"),
    "exactness demanded": (
        dict(require_exact=True),
        grpc.StatusCode.FAILED_PRECONDITION,
        "EXACT_UNAVAILABLE",
    ),
}


@pytest.mark.parametrize("name", GENERATE_CASES)
async def test_what_the_orchestrator_refuses(shared_system: System, name: str) -> None:
    fields, code, reason = GENERATE_CASES[name]
    expected = (await shared_system.client.generate(max_tokens=4)).ids

    async def ask() -> None:
        async for _ in shared_system.client.stub.Generate(generate_request(**fields)):
            pass

    status = await unary_error(ask())
    assert (status.code, reason_of(status)) == (code.value[0], reason)
    assert (await shared_system.client.status()).num_active == 0
    assert (await shared_system.client.generate(max_tokens=4)).ids == expected


FIELDS: dict[str, dict[str, Any]] = {
    "prompt": dict(text=None),
    "text": dict(text=""),
    "chat.messages": dict(chat=generation_pb2.ChatPrompt()),
    "tokens.tokens": dict(tokens=generation_pb2.TokenPrompt(tokens=[0, VOCABULARY])),
    "max_tokens": dict(max_tokens=0),
    "stop": dict(stop=[""]),
    "num_log_probabilities": dict(num_log_probabilities=21),
    "num_prompt_log_probabilities": dict(num_prompt_log_probabilities=21),
    "speculation.num_draft_tokens": dict(speculation=fixed(0)),
    "sampling.temperature": dict(sampling=common_pb2.Sampling(temperature=-1)),
    "sampling.top_p": dict(sampling=common_pb2.Sampling(top_p=0)),
    "sampling.min_p": dict(sampling=common_pb2.Sampling(min_p=1)),
    "sampling.repetition_penalty": dict(sampling=common_pb2.Sampling(repetition_penalty=0)),
    "sampling.presence_penalty": dict(sampling=common_pb2.Sampling(presence_penalty=101)),
    "sampling.frequency_penalty": dict(sampling=common_pb2.Sampling(frequency_penalty=NAN)),
    "sampling.logit_bias": dict(sampling=common_pb2.Sampling(logit_bias={VOCABULARY: 1.0})),
}


@pytest.mark.parametrize("field", FIELDS)
async def test_a_refusal_names_the_field(shared_system: System, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        async for _ in shared_system.client.stub.Generate(generate_request(**FIELDS[field])):
            pass
    assert [violation.field for violation in error_from_rpc(refused.value).field_violations] == [field]


async def test_a_request_without_any_prompt(shared_system: System) -> None:
    async def ask() -> None:
        async for _ in shared_system.client.stub.Generate(generation_pb2.GenerateRequest(max_tokens=4)):
            pass

    assert reason_of(await unary_error(ask())) == "EMPTY_PROMPT"


async def test_ids_that_the_tokenizer_does_not_know(shared_system: System) -> None:
    async with grpc.aio.insecure_channel(shared_system.target.address) as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        status = await unary_error(stub.Detokenize(target_pb2.DetokenizeRequest(tokens=[1, VOCABULARY])))
    assert reason_of(status) == "TOKEN_OUT_OF_RANGE"
