"""Services that answer as a test tells them, over real streams."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from outrider.v1 import draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc
from services.frame.rpc.errors import ServiceError, status_of
from tests.waiting import PATIENCE_S

# What a script makes of a request: a result, an error, the end of the stream as by a proxy, or nothing at all.
Answer = target_pb2.VerifyBatchResult | draft_pb2.ProposeResult | ServiceError | grpc.StatusCode | None


@dataclass
class Script:
    """Answers the requests of all streams in turn, and remembers them; streams end after the ones in `ends_after`."""

    answers: list[Answer | Callable[[Any], Answer | Awaitable[Answer]]]
    ends_after: tuple[int, ...] = ()
    requests: list[Any] = field(default_factory=list)
    num_streams: int = 0
    num_released: int = 0

    async def serve(self, context: Any, field_name: str, reply_type: Any, message_type: Any) -> None:
        """Serve one stream."""
        self.num_streams += 1
        while (message := await context.read()) is not grpc.aio.EOF:
            if message.HasField("release"):
                self.num_released += 1
                continue
            request = getattr(message, field_name)
            self.requests.append(request)
            answer = self.answers.pop(0)
            answered = answer(request) if callable(answer) else answer
            outcome = await answered if isinstance(answered, Awaitable) else answered
            if outcome is None:
                continue
            if isinstance(outcome, grpc.StatusCode):
                await context.abort(outcome, "it was cut")
            reply = reply_type(request_id=request.request_id)
            if isinstance(outcome, ServiceError):
                reply.error.CopyFrom(status_of(outcome))
            else:
                reply.result.CopyFrom(outcome)
                reply.held_length = request.context.cached_length + len(request.context.tokens)
            await context.write(message_type(response=reply))
            if len(self.requests) in self.ends_after:
                return


class ScriptedTarget(target_pb2_grpc.TargetServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def VerifyBatch(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    Tokenize = Detokenize = ApplyChatTemplate = VerifyBatch

    async def VerifyStream(self, request_iterator: object, context: Any) -> None:  # type: ignore[override]
        await self._script.serve(context, "verify", target_pb2.VerifyBatchResponse, target_pb2.VerifyStreamResponse)


class ScriptedDraft(draft_pb2_grpc.DraftServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    async def Propose(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def ProposeStream(self, request_iterator: object, context: Any) -> None:  # type: ignore[override]
        await self._script.serve(context, "propose", draft_pb2.ProposeResponse, draft_pb2.ProposeStreamResponse)


@asynccontextmanager
async def serving(
    add: Callable[[Any, Any], None], servicer: object, options: Sequence[tuple[str, Any]] = ()
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with this servicer. Its methods that are not written here do not matter."""
    server = grpc.aio.server(options=options)
    add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with asyncio.timeout(PATIENCE_S), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield channel
        finally:
            await server.stop(None)
