"""A service that is told to end while it has clients."""

import asyncio
import os
import signal
from typing import Any

import grpc
import pytest

from outrider.v1 import target_pb2, target_pb2_grpc
from services.frame.rpc.errors import error_from_rpc
from services.frame.run import _serve
from services.frame.server import FrameServer
from services.frame.telemetry import Telemetry
from services.target.settings import TargetSettings
from tests.integration.clients.target import request
from tests.integration.conftest import Pair
from tests.integration.services import ENGINE_SETTINGS, Gate, GatedTarget
from tests.waiting import PATIENCE_S, soon

pytestmark = pytest.mark.integration


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
