"""Hostile and unlucky clients: each gets a clear answer or none, and the others go on being served."""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue

from outrider.v1 import common_pb2, model_pb2, model_pb2_grpc, target_pb2, target_pb2_grpc
from services.engine.scheduling.engine import Engine
from services.frame.rpc.channel import ClientTls, open_channel
from services.frame.rpc.errors import ServiceError, error_from_rpc, error_from_status
from services.frame.run import _serve
from services.frame.server import FrameServer
from services.frame.telemetry.telemetry import Telemetry
from services.session.duplex import MAX_UNSENT_ANSWERS
from services.session.exchange import Exchange
from services.session.sequence import TokenSequence
from services.target.settings import TargetSettings
from tests.calls import replies
from tests.certificates import Files, write_files
from tests.foreign_models import llama, tiny_tokenizer
from tests.integration.conftest import Pair
from tests.integration.services import (
    ENGINE_SETTINGS,
    Gate,
    GatedTarget,
    client_of,
    draft_server,
    fixed,
    orchestrator_server,
    target_server,
    until_idle,
)
from tests.waiting import PATIENCE_S, soon, while_going_on

pytestmark = pytest.mark.integration

PROMPT = [0, 7, 300, 21, 5]
HUGE = 100_000_000
VERIFY = "/outrider.v1.TargetService/VerifyBatch"
VERIFY_STREAM = "/outrider.v1.TargetService/VerifyStream"


def request(
    request_id: int = 1, session_id: str = "a", tokens: list[int] | None = None, **fields: Any
) -> target_pb2.VerifyBatchRequest:
    context = common_pb2.Context(session_id=session_id, tokens=PROMPT if tokens is None else tokens)
    return target_pb2.VerifyBatchRequest(request_id=request_id, context=context, **fields)


class Target:
    """A target behind a gate, and a channel to it."""

    def __init__(self, server: FrameServer, gate: Gate, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.gate = gate
        self.channel = channel
        # The stubs cannot tell a message from the end of a stream.
        self.stub: Any = target_pb2_grpc.TargetServiceStub(channel)

    @property
    def engine(self) -> Engine:
        engine: Engine = self.server._application.engine  # type: ignore[attr-defined]
        return engine

    async def verify(self, *args: Any, **fields: Any) -> target_pb2.VerifyBatchResponse:
        """Ask once, over a unary call."""
        reply: target_pb2.VerifyBatchResponse = await self.stub.VerifyBatch(
            request(*args, **fields), timeout=PATIENCE_S
        )
        return reply


@asynccontextmanager
async def serving(pair: Pair, **settings: Any) -> AsyncIterator[Target]:
    gate = Gate()
    async with (
        target_server(pair.target, gate, **settings) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        try:
            yield Target(server, gate, channel)
        finally:
            gate.open()
            # Whatever a test's clients did, nothing of it is left.
            await until_idle(server)


@pytest.fixture
async def target(pair: Pair) -> AsyncIterator[Target]:
    async with serving(pair) as target:
        yield target


class Other:
    """Somebody who does nothing wrong, on a stream of its own."""

    def __init__(self, target: Target, channel: grpc.aio.Channel) -> None:
        self._stream: Any = target_pb2_grpc.TargetServiceStub(channel).VerifyStream()
        self._num_asked = 0
        self._expected: list[int] = []

    async def ask(self) -> None:
        """Ask for the same as ever, and check that the answer is the same as ever."""
        self._num_asked += 1
        message = request(self._num_asked, "other", draft_tokens=[3, 1])
        async with asyncio.timeout(PATIENCE_S):
            await self._stream.write(target_pb2.VerifyStreamRequest(verify=message))
            result = (await self._stream.read()).response.result
        self._expected = self._expected or [result.num_accepted, result.next_token]
        assert [result.num_accepted, result.next_token] == self._expected


@pytest.fixture
async def other(target: Target) -> AsyncIterator[Other]:
    async with grpc.aio.insecure_channel(target.server.address) as channel:
        other = Other(target, channel)
        await other.ask()
        yield other


Send = Callable[[Any, bytes], Coroutine[Any, Any, None]]


async def send_once(channel: Any, data: bytes) -> None:
    try:
        await channel.unary_unary(VERIFY)(data, timeout=PATIENCE_S)
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from error


async def send_on_a_stream(channel: Any, data: bytes) -> None:
    assert await replies(channel.stream_stream(VERIFY_STREAM)([data], timeout=PATIENCE_S)) == []


@pytest.mark.parametrize("send", [send_once, send_on_a_stream])
async def test_a_message_of_a_hundred_megabytes(target: Target, other: Other, send: Send) -> None:
    sending = asyncio.create_task(send(target.channel, bytes(HUGE)))
    while not sending.done():
        await other.ask()
    with pytest.raises(ServiceError) as failed:
        await sending
    assert failed.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    # Its connection is as good as before.
    assert (await target.verify()).HasField("result")
    await other.ask()


UNREADABLE = {
    "garbage": (random.Random(1).randbytes(1000), "INVALID_REQUEST"),
    "cut off": (request().SerializeToString()[:-1], "INVALID_REQUEST"),
    # As a client writes it that does not care: field 3, the context, with field 1, the session id.
    "not UTF-8": (b"\x08\x01\x1a\x05\x0a\x03a\xff\xfe", "INVALID_UTF8"),
}


@pytest.mark.parametrize("send", [send_once, send_on_a_stream])
@pytest.mark.parametrize("name", UNREADABLE)
async def test_bytes_that_are_no_request(target: Target, other: Other, name: str, send: Send) -> None:
    data, reason = UNREADABLE[name]
    if send is send_on_a_stream and name == "not UTF-8":
        data = b"\x0a" + bytes([len(data)]) + data
    with pytest.raises(ServiceError) as failed:
        await send(target.channel, data)
    assert (failed.value.code, failed.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert (await target.verify()).HasField("result")
    await other.ask()


async def test_bytes_that_are_not_even_a_connection(target: Target, other: Other) -> None:
    host, _, port = target.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(random.Random(2).randbytes(100_000))
    async with asyncio.timeout(PATIENCE_S):
        try:
            while await reader.read(4096):
                pass
        except ConnectionResetError:
            pass
    writer.close()
    await other.ask()


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


async def test_one_very_long_word(tmp_path: Path) -> None:
    """Text is split by a recursive regular expression, which would take more stack than a thread usually has."""
    recursive = GGUFValue("deepseek-llm", GGUFValueType.STRING)
    path = llama(tmp_path / "model.gguf", tokenizer=tiny_tokenizer() | {"tokenizer.ggml.pre": recursive})
    async with serving(Pair(path, path)) as target, grpc.aio.insecure_channel(target.server.address) as channel:
        other = Other(target, channel)
        for word in ("x" * 200_000, " " * 200_000):
            asking = asyncio.ensure_future(target.stub.Tokenize(target_pb2.TokenizeRequest(text=word)))
            await other.ask()
            reply = await asking
            text = await target.stub.Detokenize(target_pb2.DetokenizeRequest(tokens=reply.tokens))
            assert text.text == word.encode()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await target.stub.Tokenize(target_pb2.TokenizeRequest(text="x" * 5_000_000))
        error = error_from_rpc(failed.value)
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        await other.ask()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("tls") / "files")


async def test_services_that_know_their_clients_by_certificate(pair: Pair, files: Files) -> None:
    theirs: dict[str, Any] = {"tls_cert": files.cert, "tls_key": files.key, "tls_client_ca": files.ca}
    ours: dict[str, Any] = {"peer_tls": True, "peer_ca": files.ca, "peer_cert": files.cert, "peer_key": files.key}
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(target_server(pair.target, **theirs))
        draft = await stack.enter_async_context(draft_server(pair.draft, **theirs))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address, draft.address, **ours))
        client = await stack.enter_async_context(client_of(orchestrator))
        await client.until_draft(is_available=True)
        generated = await client.generate(max_tokens=12, speculation=fixed(3))
        assert len(generated.tokens) == 12
        assert generated.counts.num_accepted_tokens > 0
        for tls in (ClientTls(files.ca), None):
            stranger = await stack.enter_async_context(open_channel(target.address, tls=tls))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await model_pb2_grpc.ModelServiceStub(stranger).GetModel(model_pb2.GetModelRequest())
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert len((await client.generate(max_tokens=12)).tokens) == 12


class Announced(GatedTarget):
    """A target that tells where it listens."""

    server: FrameServer | None = None

    async def start(self, server: FrameServer) -> None:
        await super().start(server)
        self.server = server


@pytest.fixture
def _signals() -> Any:
    """Put back what handles signals; a server that ends leaves the system's ways behind."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals")
async def test_a_signal_while_streams_are_open(pair: Pair) -> None:
    """What is under way is answered, streams end, nothing new begins, and the process ends well."""
    settings = TargetSettings(**{"model": pair.target, "port": 0, "exact": "off", **ENGINE_SETTINGS})
    application = Announced(settings)
    application.gate = gate = Gate()
    running = asyncio.create_task(_serve(settings, application, Telemetry.off()))
    await soon(lambda: application.server)
    server = application.server
    assert server is not None
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = target_pb2_grpc.TargetServiceStub(channel)
        idle, busy = stub.VerifyStream(), stub.VerifyStream()
        await idle.write(target_pb2.VerifyStreamRequest(verify=request(1, "idle")))
        assert (await idle.read()).response.HasField("result")
        gate.hold_after(0)
        await busy.write(target_pb2.VerifyStreamRequest(verify=request(1, "busy")))
        await gate.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(server.draining.wait(), PATIENCE_S)
        assert await idle.read() is grpc.aio.EOF
        assert await idle.code() is grpc.StatusCode.OK
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.VerifyBatch(request(1, "new"))
        assert error_from_rpc(refused.value).reason == "NOT_READY"
        assert not running.done()
        gate.open()
        assert (await busy.read()).response.HasField("result")
        assert await busy.read() is grpc.aio.EOF
        assert await busy.code() is grpc.StatusCode.OK
        assert await asyncio.wait_for(running, PATIENCE_S) is None
