"""A server whose streams and unary calls share their sessions, and a stream to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from outrider.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from services.frame.program.settings import ServerSettings
from services.frame.rpc.call_status import CallStatus
from services.frame.rpc.errors import error_from_status
from services.frame.server import FrameServer
from tests.unit.session.exchanging import Reply, Request, Service, request
from tests.waiting import PATIENCE_S


class StreamApplication(draft_pb2_grpc.DraftServiceServicer):
    """A server whose streams and unary calls share one exchange."""

    service_names = ("outrider.v1.DraftService",)

    def __init__(self, service: Service) -> None:
        self.service = service
        self.wrap: Callable[[Reply], Any] = lambda reply: draft_pb2.ProposeStreamResponse(response=reply)

    async def start(self, server: FrameServer) -> None:
        self._server = server
        server.register(draft_pb2_grpc.add_DraftServiceServicer_to_server, self)

    async def stop(self) -> None:
        pass

    async def Propose(self, request: Request, context: Any) -> Reply:
        return await self.service.exchange.answer(request)

    async def ProposeStream(self, request_iterator: object, context: Any) -> None:  # type: ignore[override]
        await self.service.exchange.serve(context, "propose", self.wrap, self._server.draining)


class Client:
    """A stream to the application."""

    def __init__(self, stub: draft_pb2_grpc.DraftServiceStub) -> None:
        self.call: Any = stub.ProposeStream()
        self._status = CallStatus(self.call)

    async def send(self, request_id: int, session_id: str = "a") -> None:
        await self.call.write(draft_pb2.ProposeStreamRequest(propose=request(request_id, session_id)))

    async def cancel(self, request_id: int) -> None:
        message = common_pb2.CancelMessage(request_id=request_id)
        await self.call.write(draft_pb2.ProposeStreamRequest(cancel=message))

    async def release(self) -> None:
        await self.call.write(draft_pb2.ProposeStreamRequest(release=common_pb2.ReleaseMessage()))

    async def reply(self) -> Reply:
        async with asyncio.timeout(PATIENCE_S):
            message = await self.call.read()
        assert message is not grpc.aio.EOF, "the stream ended"
        return message.response

    async def error(self) -> tuple[int, grpc.StatusCode, str]:
        """The next reply's id, and the code and the reason of the error that it carries."""
        reply = await self.reply()
        assert reply.WhichOneof("outcome") == "error"
        error = error_from_status(reply.error)
        return reply.request_id, error.code, error.reason

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended: the code, and the reason of an error."""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(grpc.aio.AioRpcError):  # of which the status knows more
                assert await self.call.read() is grpc.aio.EOF
            error = await self._status.error()
        return (error.code, error.reason) if error else (grpc.StatusCode.OK, "")


@asynccontextmanager
async def serving(service: Service) -> AsyncIterator[tuple[FrameServer, StreamApplication, grpc.aio.Channel]]:
    application = StreamApplication(service)
    async with (
        FrameServer(ServerSettings(drain_timeout_s=PATIENCE_S), application) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield server, application, channel
