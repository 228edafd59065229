"""Bad requests, over every carrier: the status, the stable reason, and a service that goes on."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from outrider.v1 import (
    common_pb2,
    draft_pb2,
    draft_pb2_grpc,
    generation_pb2,
    target_pb2,
    target_pb2_grpc,
)
from services.frame.digest import TokenSequence
from services.frame.server import FrameServer
from tests.integration.conftest import VOCABULARY, Pair, System
from tests.integration.services import Gate, fixed, generate_request, target_server, until_idle
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration

NAN, INFINITY = math.nan, math.inf
PROMPT = [0, 7, 300, 21, 5]
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE
Request = target_pb2.VerifyBatchRequest | draft_pb2.ProposeRequest
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


@dataclass
class Service:
    """One of the two services: how to ask it over either carrier."""

    server: FrameServer
    unary: Callable[..., Any]
    stream: Callable[[], Any]
    wrap: Callable[[Any], Any]
    make: Callable[..., Any]

    def request(self, request_id: int = 1, session_id: str = "a") -> Any:
        """A good request."""
        context = common_pb2.Context(session_id=session_id, tokens=PROMPT)
        return self.make(request_id=request_id, context=context)


@pytest.fixture(params=["target", "draft"])
async def service(request: pytest.FixtureRequest, system: System) -> AsyncIterator[Service]:
    if request.param == "target":
        async with grpc.aio.insecure_channel(system.target.address) as channel:
            target_stub = target_pb2_grpc.TargetServiceStub(channel)
            yield Service(
                system.target,
                target_stub.VerifyBatch,
                target_stub.VerifyStream,
                lambda request: target_pb2.VerifyStreamRequest(verify=request),
                target_pb2.VerifyBatchRequest,
            )
    else:
        async with grpc.aio.insecure_channel(system.draft.address) as channel:
            draft_stub = draft_pb2_grpc.DraftServiceStub(channel)
            yield Service(
                system.draft,
                draft_stub.Propose,
                draft_stub.ProposeStream,
                lambda request: draft_pb2.ProposeStreamRequest(propose=request),
                lambda **fields: draft_pb2.ProposeRequest(num_draft_tokens=4, **fields),
            )


def _reason(status: status_pb2.Status) -> str:
    """The reason, read by hand."""
    (info,) = (
        info
        for detail in status.details
        if detail.TypeName() == error_details_pb2.ErrorInfo.DESCRIPTOR.full_name
        for info in [error_details_pb2.ErrorInfo.FromString(detail.value)]
    )
    assert info.domain == "outrider"
    assert f"ERROR_REASON_{info.reason}" in common_pb2.ErrorReason.keys()  # noqa: SIM118  no mapping
    assert status.message
    return info.reason


def _retry_delay_s(status: status_pb2.Status) -> float:
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.ToMicroseconds() / 1e6
    return 0.0


async def _unary_error(call: Any) -> status_pb2.Status:
    """The rich status that ends a call."""
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await call
    status = rpc_status.from_call(info.value)  # type: ignore[arg-type]  # the stubs know the synchronous call only
    assert status is not None
    assert status.code == info.value.code().value[0]
    return status


async def _read(stream: Any) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        message = await stream.read()
    assert message is not grpc.aio.EOF, "the stream ended"
    return message.response


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
    status = await _unary_error(service.unary(bad))
    assert (status.code, _reason(status)) == (code.value[0], reason)

    stream = service.stream()
    bad.request_id = 3
    await stream.write(service.wrap(bad))
    reply = await _read(stream)
    assert reply.request_id == 3
    assert reply.WhichOneof("outcome") == "error"
    assert (reply.error.code, _reason(reply.error)) == (code.value[0], reason)
    assert reply.error.message == status.message

    # A stream keeps the session of its first message, so one with a bad session is lost.
    if reason != "INVALID_SESSION":
        await stream.write(service.wrap(service.request(4)))
        assert _outcome(await _read(stream)) == _outcome(good)
    assert _outcome(await service.unary(service.request(5))) == _outcome(good)
    stream.cancel()
    await until_idle(service.server)


async def _ask(service: Service, carrier: str, request: Any) -> Any:
    """The reply to one request."""
    if carrier == "unary":
        return await service.unary(request)
    stream = service.stream()
    await stream.write(service.wrap(request))
    reply = await _read(stream)
    stream.cancel()
    return reply


@pytest.mark.parametrize("carrier", ["unary", "stream"])
async def test_a_digest_that_does_not_match(service: Service, carrier: str) -> None:
    """No error: the answer says what is held, which is lost by no wrong belief."""
    await service.unary(service.request(1))
    held = TokenSequence(PROMPT).digests
    wrong = service.request(2)
    wrong.context.cached_length, wrong.context.cached_digest = 4, held[3]
    wrong.context.tokens[:] = PROMPT[4:]
    miss = await _ask(service, carrier, wrong)
    assert miss.WhichOneof("outcome") == "cache_miss"
    assert miss.held_length == miss.cache_miss.held_length >= len(PROMPT)
    assert miss.timings.num_decodes == 0
    right = service.request(3)
    right.context.CopyFrom(wrong.context)
    right.context.cached_digest = held[4]
    reply = await _ask(service, carrier, right)
    assert reply.WhichOneof("outcome") == "result"
    assert reply.timings.batch_rows == 1
    await until_idle(service.server)


@pytest.mark.parametrize("carrier", ["unary", "stream"])
async def test_a_request_that_is_repeated_gets_the_same_answer(service: Service, carrier: str) -> None:
    """The very same, its timings included: nothing is computed twice."""
    replies = [await _ask(service, carrier, service.request(7)) for _ in range(3)]
    assert replies[0].WhichOneof("outcome") == "result"
    assert replies[1] == replies[2] == replies[0]
    await until_idle(service.server)


def _outcome(reply: Any) -> list[int]:
    """The tokens of a result. Probabilities may differ in their last bits."""
    assert reply.WhichOneof("outcome") == "result"
    if isinstance(reply, target_pb2.VerifyBatchResponse):
        return [reply.result.num_accepted, reply.result.next_token]
    return [draft_token.token for draft_token in reply.result.draft_tokens]


async def test_a_request_that_came_too_late_is_superseded(service: Service) -> None:
    await service.unary(service.request(9))
    status = await _unary_error(service.unary(service.request(8)))
    assert (status.code, _reason(status)) == (grpc.StatusCode.ABORTED.value[0], "SUPERSEDED")
    stream = service.stream()
    await stream.write(service.wrap(service.request(8)))
    reply = await _read(stream)
    assert (reply.error.code, _reason(reply.error)) == (grpc.StatusCode.ABORTED.value[0], "SUPERSEDED")
    await stream.write(service.wrap(service.request(10)))
    assert (await _read(stream)).WhichOneof("outcome") == "result"
    stream.cancel()


async def test_a_stream_is_for_one_session(service: Service) -> None:
    stream = service.stream()
    await stream.write(service.wrap(service.request(1, "a")))
    await _read(stream)
    await stream.write(service.wrap(service.request(2, "b")))

    async def end() -> None:
        async with asyncio.timeout(PATIENCE_S):
            assert await stream.read() is grpc.aio.EOF
        raise await _error_of(stream)

    status = await _unary_error(end())
    assert (status.code, _reason(status)) == (INVALID_ARGUMENT.value[0], "INVALID_SESSION")


async def _error_of(stream: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await stream.code(), await stream.initial_metadata(), await stream.trailing_metadata(), await stream.details()
    )


async def test_a_message_that_is_too_large(service: Service) -> None:
    huge = service.request(1)
    huge.context.tokens.extend([300] * 9_000_000)
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await service.unary(huge)
    assert info.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await service.unary(service.request(2))).WhichOneof("outcome") == "result"


@pytest.mark.parametrize("carrier", ["unary", "stream"])
async def test_requests_that_wait(pair: Pair, carrier: str) -> None:
    """One that finds no room in the queue, one whose time is over before its turn, one that is given up."""
    gate = Gate()
    async with target_server(pair.target, gate, slots=1, max_queued=3) as server:
        application = server._application
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = target_pb2_grpc.TargetServiceStub(channel)

            def request(session_id: str, **fields: Any) -> target_pb2.VerifyBatchRequest:
                context = common_pb2.Context(session_id=session_id, tokens=PROMPT)
                return target_pb2.VerifyBatchRequest(request_id=1, context=context, **fields)

            async def ask(message: target_pb2.VerifyBatchRequest) -> status_pb2.Status | target_pb2.VerifyBatchResult:
                if carrier == "unary":
                    try:
                        return (await stub.VerifyBatch(message)).result
                    except grpc.aio.AioRpcError as error:
                        return rpc_status.from_call(error)  # type: ignore[arg-type]
                stream = stub.VerifyStream()
                await stream.write(target_pb2.VerifyStreamRequest(verify=message))
                reply = await _read(stream)
                stream.cancel()
                return reply.error if reply.HasField("error") else reply.result

            gate.hold_after(0)
            under_way = asyncio.create_task(ask(request("a")))
            await gate.reached()
            waiting = [asyncio.create_task(ask(request(name))) for name in ("b", "c")]
            late = asyncio.create_task(ask(request("d", timeout_ms=1)))
            engine = application.engine
            await soon(lambda: engine.num_unanswered == 4)
            refused = await ask(request("e"))
            assert isinstance(refused, status_pb2.Status)
            assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            assert _reason(refused) == "QUEUE_FULL"
            assert _retry_delay_s(refused) > 0
            gate.open()
            timed_out = await late
            assert isinstance(timed_out, status_pb2.Status)
            assert timed_out.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            assert _reason(timed_out) == "TIMEOUT"
            results = await asyncio.gather(under_way, *waiting)
            assert results[0] == results[1] == results[2]
            assert isinstance(results[0], target_pb2.VerifyBatchResult)
            await until_idle(server)


async def test_a_request_that_is_given_up(system: System) -> None:
    async with grpc.aio.insecure_channel(system.target.address) as channel:
        stream = target_pb2_grpc.TargetServiceStub(channel).VerifyStream()

        async def ask(request_id: int) -> None:
            context = common_pb2.Context(session_id="a", tokens=PROMPT)
            request = target_pb2.VerifyBatchRequest(request_id=request_id, context=context)
            await stream.write(target_pb2.VerifyStreamRequest(verify=request))

        await ask(1)
        expected = _outcome(await _read(stream))
        system.target_gate.hold_after(0)
        await ask(2)
        await system.target_gate.reached()
        await stream.write(target_pb2.VerifyStreamRequest(cancel=common_pb2.CancelMessage(request_id=2)))
        reply = await _read(stream)
        assert (reply.request_id, reply.error.code) == (2, grpc.StatusCode.CANCELLED.value[0])
        assert _reason(reply.error) == "CANCELLED"
        system.target_gate.open()
        await ask(3)
        assert _outcome(await _read(stream)) == expected
        stream.cancel()


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
async def test_what_the_orchestrator_refuses(system: System, name: str) -> None:
    fields, code, reason = GENERATE_CASES[name]
    expected = (await system.client.generate(max_tokens=4)).ids

    async def ask() -> None:
        async for _ in system.client.stub.Generate(generate_request(**fields)):
            pass

    status = await _unary_error(ask())
    assert (status.code, _reason(status)) == (code.value[0], reason)
    assert (await system.client.status()).num_active == 0
    assert (await system.client.generate(max_tokens=4)).ids == expected


async def test_a_request_without_any_prompt(system: System) -> None:
    async def ask() -> None:
        async for _ in system.client.stub.Generate(generation_pb2.GenerateRequest(max_tokens=4)):
            pass

    assert _reason(await _unary_error(ask())) == "EMPTY_PROMPT"


async def test_ids_that_the_tokenizer_does_not_know(system: System) -> None:
    async with grpc.aio.insecure_channel(system.target.address) as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        status = await _unary_error(stub.Detokenize(target_pb2.DetokenizeRequest(tokens=[1, VOCABULARY])))
    assert _reason(status) == "TOKEN_OUT_OF_RANGE"
