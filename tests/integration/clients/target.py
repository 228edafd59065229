"""A target behind a gate, and a client of it that does nothing wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from outrider.v1 import common_pb2, target_pb2, target_pb2_grpc
from services.engine.scheduling.engine import Engine
from services.frame.server import FrameServer
from tests.integration.conftest import Pair
from tests.integration.services import Gate, target_server, until_idle
from tests.waiting import PATIENCE_S

PROMPT = [0, 7, 300, 21, 5]


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
