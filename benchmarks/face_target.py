"""A target whose decodes are slept through, for measurements of what is in front of it; `face.py` runs it as a process.

Every session repeats the last token of its prompt, one token a decode, all sessions together at the ticks of one clock.
Token 1 has 64 KiB of text, so that an answer of a few tokens fills the buffers of a connection; all others have a few
characters. `VerifyStream` is what the orchestrator calls; as no draft token is ever right, none should be sent.
"""

import argparse
import asyncio
import sys
from typing import Any, ClassVar

import uvloop

from outrider.v1 import common_pb2, model_pb2, model_pb2_grpc, target_pb2, target_pb2_grpc
from services.frame.program.settings import ServerSettings
from services.frame.rpc.handlers import RpcContext
from services.frame.run import run_server
from services.frame.server import FrameServer

VOCABULARY_SIZE = 1024
CONTEXT_LENGTH = 1 << 16
LARGE = 1
_LARGE_BYTES = 1 << 16


class _Settings(ServerSettings, env_prefix="OUTRIDER_CLOCK_"):
    """A server that decodes every so often."""

    program: ClassVar[str] = "clock-target"
    decode_ms: float = 20.0


class _Clock:
    """Wakes everybody who waits at its ticks."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._next: asyncio.Future[None] | None = None

    async def tick(self) -> None:
        """Return at the next tick."""
        if self._next is None:
            loop = asyncio.get_running_loop()
            self._next = loop.create_future()
            now_s = loop.time()
            loop.call_at((now_s // self._tick_s + 1) * self._tick_s, self._strike)
        await asyncio.shield(self._next)

    def _strike(self) -> None:
        assert self._next is not None
        struck, self._next = self._next, None
        struck.set_result(None)


class _Target(target_pb2_grpc.TargetServiceServicer):
    def __init__(self, clock: _Clock) -> None:
        self._clock = clock

    async def VerifyBatch(self, request: Any, context: RpcContext) -> Any:
        """Nobody asks for it, nor for texts: prompts are tokens."""
        raise NotImplementedError

    Tokenize = Detokenize = ApplyChatTemplate = VerifyBatch

    async def VerifyStream(  # type: ignore[override]  # replies are written to the context
        self, request_iterator: object, context: RpcContext
    ) -> None:
        held = 0
        async for message in request_iterator:  # type: ignore[attr-defined]
            if not message.HasField("verify"):
                continue
            request = message.verify
            held = request.context.cached_length + len(request.context.tokens)
            await self._clock.tick()
            result = target_pb2.VerifyBatchResult(next_token=request.context.tokens[-1])
            reply = target_pb2.VerifyBatchResponse(request_id=request.request_id, held_length=held, result=result)
            await context.write(target_pb2.VerifyStreamResponse(response=reply))


class _Model(model_pb2_grpc.ModelServiceServicer):
    async def GetModel(self, request: model_pb2.GetModelRequest, context: RpcContext) -> model_pb2.GetModelResponse:
        model = common_pb2.ModelInfo(
            name="clock",
            context_length=CONTEXT_LENGTH,
            vocabulary_size=VOCABULARY_SIZE,
            tokenizer_fingerprint="clock",
            numerics_fingerprint="clock",
            max_draft_tokens=16,
            num_slots=1024,
        )
        return model_pb2.GetModelResponse(model=model)

    async def GetTokenTable(  # type: ignore[override]  # replies are yielded
        self, request: model_pb2.GetTokenTableRequest, context: RpcContext
    ) -> Any:
        texts = [f" w{token:03}" if token != LARGE else "x" * _LARGE_BYTES for token in range(VOCABULARY_SIZE)]
        entries = [common_pb2.TokenEntry(text=text[:16], output=text.encode()) for text in texts]
        yield model_pb2.GetTokenTableResponse(
            tokenizer_fingerprint="clock", vocabulary_size=VOCABULARY_SIZE, entries=entries
        )


class _Application:
    service_names = ("outrider.v1.TargetService", "outrider.v1.ModelService")

    def __init__(self, decode_ms: float) -> None:
        self._clock = _Clock(decode_ms / 1e3)

    async def start(self, server: FrameServer) -> None:
        server.register(target_pb2_grpc.add_TargetServiceServicer_to_server, _Target(self._clock))
        server.register(model_pb2_grpc.add_ModelServiceServicer_to_server, _Model())

    async def stop(self) -> None:
        pass


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--decode-ms", type=float, required=True)
    given = parser.parse_args()
    settings = _Settings(port=given.port, decode_ms=given.decode_ms, log_level="error")
    return run_server(settings, _Application(given.decode_ms), "clock-target")


if __name__ == "__main__":
    uvloop.install()
    sys.exit(main())
