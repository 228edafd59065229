"""Clients that vanish, wait in vain, never read, or come by the thousand: the others go on being served."""

import asyncio
import random
from typing import Any

import grpc
import pytest

from outrider.v1 import common_pb2, target_pb2, target_pb2_grpc
from services.frame.rpc.errors import error_from_status
from services.session.duplex import MAX_UNSENT_ANSWERS
from services.session.exchange import Exchange
from services.session.sequence import TokenSequence
from tests.integration.clients.target import PROMPT, Other, Target, request, serving
from tests.integration.conftest import Pair
from tests.integration.services import until_idle
from tests.waiting import PATIENCE_S, soon, while_going_on

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("carrier", ["unary", "stream"])
@pytest.mark.parametrize("way", ["cancels", "disconnects"])
async def test_a_client_that_vanishes_in_the_middle(pair: Pair, carrier: str, way: str) -> None:
    """Its work ends, and its slot, the only one, is somebody else's."""
    async with serving(pair, slots=1, batch_rows=64) as target:
        async with grpc.aio.insecure_channel(target.server.address) as channel:
            stub = target_pb2_grpc.TargetServiceStub(channel)
            # A prompt of several decodes, of which the first is held.
            message = request(tokens=[0, *[7] * 200])
            target.gate.hold_after(0)
            call: Any
            if carrier == "unary":
                call = stub.VerifyBatch(message)
                asked = asyncio.ensure_future(call)
            else:
                call = stub.VerifyStream()
                await call.write(target_pb2.VerifyStreamRequest(verify=message))
                asked = asyncio.ensure_future(call.read())
            await target.gate.reached()
            assert target.engine.num_active == 1
            if way == "cancels":
                call.cancel()
            else:
                await channel.close()
            with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
                await asked
        # The server has heard of it, too.
        await soon(lambda: target.engine.num_unanswered == 0)
        target.gate.open()
        await soon(lambda: target.engine.num_active == 0)
        assert target.gate.num_decodes == 1
        assert (await target.verify(1, "b")).HasField("result")
        # And so may it, when it comes back.
        assert (await target.verify(1, "a")).HasField("result")


async def test_the_deadline_of_a_call_passes_in_the_queue(pair: Pair) -> None:
    """Not the request's `timeout_ms`, which a service tells of itself: gRPC's own."""
    async with serving(pair, slots=1) as target:
        target.gate.hold_after(0)
        under_way = asyncio.create_task(target.verify(1, "a"))
        await target.gate.reached()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await target.stub.VerifyBatch(request(1, "b"), timeout=0.05)
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await soon(lambda: target.engine.num_unanswered == 1)
        target.gate.open()
        assert (await under_way).HasField("result")
        assert target.gate.num_decodes == 1
        assert (await target.verify(2, "b")).HasField("result")


async def test_a_client_that_obeys_a_full_queue_is_served_in_the_end(pair: Pair) -> None:
    async with serving(pair, slots=1, max_queued=1) as target:
        target.gate.hold_after(0)
        under_way = asyncio.create_task(target.verify(1, "a"))
        await target.gate.reached()
        waiting = asyncio.create_task(target.verify(1, "b"))
        await soon(lambda: target.engine.num_unanswered == 2)
        stream = target.stub.VerifyStream()
        await stream.write(target_pb2.VerifyStreamRequest(verify=request(1, "c")))
        error = error_from_status((await stream.read()).response.error)
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert error.retry_after_s is not None
        assert error.retry_after_s > 0
        target.gate.open()
        assert (await under_way).HasField("result")
        assert (await waiting).HasField("result")
        # With the same id: the request was never done.
        await stream.write(target_pb2.VerifyStreamRequest(verify=request(1, "c")))
        assert (await stream.read()).response.HasField("result")
        stream.cancel()


async def test_a_stream_that_never_reads_is_not_read_for_ever(
    target: Target, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_asked = 0
    enter = Exchange._enter

    def counted(exchange: Any, message: Any) -> Any:
        nonlocal num_asked
        num_asked += message.context.session_id == "deaf"
        return enter(exchange, message)

    tokens = list(PROMPT)
    for request_id in range(16):
        tokens.append((await target.verify(request_id, "deaf", tokens)).result.next_token)
    monkeypatch.setattr(Exchange, "_enter", counted)
    # Retries of one request, whose answer tells of seventeen tokens and is some kilobytes.
    message = request(16, "deaf", draft_tokens=tokens[len(PROMPT) :], num_log_probabilities=20)
    num_requests = 6000
    stream = target.stub.VerifyStream()

    async def write() -> None:
        for _ in range(num_requests):
            await stream.write(target_pb2.VerifyStreamRequest(verify=message))

    writing = asyncio.create_task(write())
    # It has come to rest when others are served again and again, and it is not.
    num_quiet = num_before = 0
    async with asyncio.timeout(PATIENCE_S):
        while num_quiet < 100 and num_asked < num_requests:
            await other.ask()
            num_quiet = num_quiet + 1 if num_asked == num_before > 0 else 0
            num_before = num_asked
    assert num_asked < num_requests
    # Nothing is lost when it reads after all.
    for _ in range(num_requests):
        assert (await stream.read()).response.result.num_accepted == 16
    await writing
    assert num_asked == num_requests
    stream.cancel()


async def test_a_stream_that_never_reads_and_vanishes_leaves_nothing(target: Target, other: Other) -> None:
    """Neither its requests nor the answers that it left unread keep anything busy, and its session can go on."""
    async with grpc.aio.insecure_channel(target.server.address) as channel:
        stream: Any = target_pb2_grpc.TargetServiceStub(channel).VerifyStream()
        target.gate.hold_after(0)
        for request_id in range(1, 4 * MAX_UNSENT_ANSWERS):
            await stream.write(target_pb2.VerifyStreamRequest(verify=request(request_id, "deaf")))
        await target.gate.reached()
    # Its channel is closed with everything still unread.
    await soon(lambda: target.engine.num_unanswered == 0)
    target.gate.open()
    await until_idle(target.server)
    assert (await target.verify(1000, "deaf")).HasField("result")
    await other.ask()


async def test_a_thousand_sessions_and_eight_slots(pair: Pair) -> None:
    """All go on from what they had, and most find it gone: each still gets what it gets alone."""
    rng = random.Random(3)
    prompts = [[0, *(rng.randrange(2, 512) for _ in range(rng.randrange(1, 12)))] for _ in range(1000)]
    async with serving(pair, slots=8, max_queued=1000) as target:

        async def go(index: int, name: str) -> tuple[list[int], bool]:
            """Return two tokens of a session, and whether it had to send its prompt again."""
            prompt, session_id = prompts[index], f"{name} {index}"
            # Without deadlines: most of them wait in the queue for all the others.
            first = (await target.stub.VerifyBatch(request(1, session_id, prompt))).result.next_token
            digest = TokenSequence(prompt).digests[-1]
            context = common_pb2.Context(
                session_id=session_id, cached_length=len(prompt), cached_digest=digest, tokens=[first]
            )
            message = target_pb2.VerifyBatchRequest(request_id=2, context=context)
            reply = await target.stub.VerifyBatch(message)
            was_evicted = reply.HasField("cache_miss")
            if was_evicted:
                reply = await target.stub.VerifyBatch(request(3, session_id, [*prompt, first]))
            assert reply.held_length == len(prompt) + 1
            return [first, reply.result.next_token], was_evicted

        alone = [(await go(index, "alone"))[0] for index in range(0, 1000, 100)]
        all_of_them = asyncio.gather(*(go(index, "together") for index in range(1000)))
        together = await while_going_on(all_of_them, lambda: target.gate.num_decodes)
        assert [tokens for tokens, _ in together[::100]] == alone
        # Those that are about to come back keep their slots, and the others queue.
        assert sum(was_evicted for _, was_evicted in together) < 200
        assert target.engine.num_evictions > 900
        assert (target.engine.num_active, target.engine.num_waiting) == (0, 0)
