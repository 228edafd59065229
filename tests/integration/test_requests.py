"""The ids of requests and the digests of prefixes; requests that wait and requests that are given up."""

import asyncio
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from outrider.v1 import common_pb2, target_pb2, target_pb2_grpc
from services.session.sequence import TokenSequence
from tests.integration.asking import PROMPT, Service, ask, outcome, read, reason_of, unary_error
from tests.integration.conftest import Pair, System
from tests.integration.services import Gate, target_server, until_idle
from tests.waiting import soon

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


def _retry_delay_s(status: status_pb2.Status) -> float:
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.ToMicroseconds() / 1e6
    return 0.0


@pytest.mark.parametrize("carrier", ["unary", "stream"])
async def test_a_digest_that_does_not_match(service: Service, carrier: str) -> None:
    """No error: the answer says what is held, which is lost by no wrong belief."""
    await service.unary(service.request(1))
    held = TokenSequence(PROMPT).digests
    wrong = service.request(2)
    wrong.context.cached_length, wrong.context.cached_digest = 4, held[3]
    wrong.context.tokens[:] = PROMPT[4:]
    miss = await ask(service, carrier, wrong)
    assert miss.WhichOneof("outcome") == "cache_miss"
    assert miss.held_length == miss.cache_miss.held_length >= len(PROMPT)
    assert miss.timings.num_decodes == 0
    right = service.request(3)
    right.context.CopyFrom(wrong.context)
    right.context.cached_digest = held[4]
    reply = await ask(service, carrier, right)
    assert reply.WhichOneof("outcome") == "result"
    assert reply.timings.batch_rows == 1
    await until_idle(service.server)


@pytest.mark.parametrize("carrier", ["unary", "stream"])
async def test_a_request_that_is_repeated_gets_the_same_answer(service: Service, carrier: str) -> None:
    """The very same, its timings included: nothing is computed twice."""
    replies = [await ask(service, carrier, service.request(7)) for _ in range(3)]
    assert replies[0].WhichOneof("outcome") == "result"
    assert replies[1] == replies[2] == replies[0]
    await until_idle(service.server)


async def test_a_request_that_came_too_late_is_superseded(service: Service) -> None:
    await service.unary(service.request(9))
    status = await unary_error(service.unary(service.request(8)))
    assert (status.code, reason_of(status)) == (grpc.StatusCode.ABORTED.value[0], "SUPERSEDED")
    stream = service.stream()
    await stream.write(service.wrap(service.request(8)))
    reply = await read(stream)
    assert (reply.error.code, reason_of(reply.error)) == (grpc.StatusCode.ABORTED.value[0], "SUPERSEDED")
    await stream.write(service.wrap(service.request(10)))
    assert (await read(stream)).WhichOneof("outcome") == "result"
    stream.cancel()


async def test_a_stream_is_for_one_session(service: Service) -> None:
    stream = service.stream()
    await stream.write(service.wrap(service.request(1)))
    await read(stream)
    await stream.write(service.wrap(service.request(2, "another")))
    reply = await read(stream)
    assert reply.request_id == 2
    assert reply.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert reason_of(reply.error) == "INVALID_SESSION"
    await stream.write(service.wrap(service.request(2)))
    assert (await read(stream)).WhichOneof("outcome") == "result"
    stream.cancel()


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
                reply = await read(stream)
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
            assert reason_of(refused) == "QUEUE_FULL"
            assert _retry_delay_s(refused) > 0
            gate.open()
            timed_out = await late
            assert isinstance(timed_out, status_pb2.Status)
            assert timed_out.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            assert reason_of(timed_out) == "TIMEOUT"
            results = await asyncio.gather(under_way, *waiting)
            assert results[0] == results[1] == results[2]
            assert isinstance(results[0], target_pb2.VerifyBatchResult)
            await until_idle(server)


async def test_a_request_that_is_given_up(shared_system: System) -> None:
    async with grpc.aio.insecure_channel(shared_system.target.address) as channel:
        stream = target_pb2_grpc.TargetServiceStub(channel).VerifyStream()

        async def ask(request_id: int) -> None:
            context = common_pb2.Context(session_id="a", tokens=PROMPT)
            request = target_pb2.VerifyBatchRequest(request_id=request_id, context=context)
            await stream.write(target_pb2.VerifyStreamRequest(verify=request))

        await ask(1)
        expected = outcome(await read(stream))
        shared_system.target_gate.hold_after(0)
        await ask(2)
        await shared_system.target_gate.reached()
        await stream.write(target_pb2.VerifyStreamRequest(cancel=common_pb2.CancelMessage(request_id=2)))
        reply = await read(stream)
        assert (reply.request_id, reply.error.code) == (2, grpc.StatusCode.CANCELLED.value[0])
        assert reason_of(reply.error) == "CANCELLED"
        shared_system.target_gate.open()
        await ask(3)
        assert outcome(await read(stream)) == expected
        stream.cancel()
