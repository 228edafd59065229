"""A target whose decodes are slept through, for measurements of what is in front of it; `face.py` runs it as a process.

All sessions are answered together at the ticks of one clock, one token each. The token says when: its text is ` w` and
the tenths of a millisecond of this machine's monotonic clock, modulo 1,000. A prompt that ends with token 1 is answered
with that token for ever, which has 64 KiB of text: a few of them fill the buffers of a connection.
"""

import argparse
import asyncio
import sys
import time
from typing import Any, ClassVar

import uvloop

from outrider.v1 import common_pb2, model_pb2, model_pb2_grpc, target_pb2, target_pb2_grpc
from services.frame.program.settings import ServerSettings
from services.frame.rpc.handlers import RpcContext
from services.frame.run import run_server
from services.frame.server import FrameServer

NUM_TIMES = 1000
# So many ids come before those of times.
FIRST_TIME = 16
VOCABULARY_SIZE = FIRST_TIME + NUM_TIMES
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
            time_token = FIRST_TIME + int(time.monotonic() * 1e4) % NUM_TIMES
            is_large = request.context.tokens[-1] == LARGE
            result = target_pb2.VerifyBatchResult(next_token=LARGE if is_large else time_token)
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
        texts = [f" w{token - FIRST_TIME:03}" for token in range(VOCABULARY_SIZE)]
        texts[LARGE] = "x" * _LARGE_BYTES
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
