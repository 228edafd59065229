"""Three processes that can be killed, paused and put in each other's place while they serve."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from orchestrator.stack.client import fetch_status, generate
from orchestrator.stack.process import ServerProcess
from outrider.v1 import generation_pb2
from services.frame.rpc.channel import open_channel
from services.frame.rpc.errors import ServiceError
from services.frame.rpc.health import watch_health

_PAUSE_S = 0.01
# A draft is tried again at once, and a target that loads is waited for.
_ORCHESTRATOR_FLAGS = ("--log-level", "error", "--draft-retry-s", "0.05", "--target-patience-s", "300")


@dataclass
class Answer:
    """What a request was answered, and the error that cut it short, if any."""

    tokens: list[int] = field(default_factory=list)
    summary: generation_pb2.GenerateSummary = field(default_factory=generation_pb2.GenerateSummary)
    error: str = ""


class Rig:
    """A target, one of two drafts, and an orchestrator. What happened to them is undone by `mend`."""

    def __init__(
        self, target: Path, drafts: Sequence[Path], *, target_flags: Sequence[str] = (), draft_flags: Sequence[str] = ()
    ) -> None:
        """The first of the two drafts serves first. Both have to fit the target."""
        self._target = ServerProcess("services.target", _flags(target, target_flags))
        self._target_address = ""
        self._draft_models = drafts
        self._draft_flags = draft_flags
        self._drafts: list[ServerProcess] = []
        self._address = ""
        self._running = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as starting:
            self._target_address = await _start(starting, self._target)
            first, second = (_flags(model, self._draft_flags) for model in self._draft_models)
            self._drafts = [ServerProcess("services.draft", first)]
            draft = await _start(starting, self._drafts[0])
            # It takes the place of the first, so it has the same port.
            self._drafts.append(ServerProcess("services.draft", second, port=int(draft.rpartition(":")[2])))
            starting.push_async_callback(self._drafts[1].stop)
            peers = ("--target", self._target_address, "--draft", draft)
            self._address = await _start(starting, ServerProcess("orchestrator", (*_ORCHESTRATOR_FLAGS, *peers)))
            await until_serving(self._target_address)
            await until_serving(self._address)
            self._running = starting.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._running.aclose()

    async def ask(
        self, request: generation_pb2.GenerateRequest, on_token: Callable[[int], None] = lambda count: None
    ) -> Answer:
        """Generate, and call `on_token` with the number of tokens so far after each chunk."""
        answer = Answer()
        try:
            async for message in generate(self._address, request):
                if message.HasField("chunk"):
                    answer.tokens.extend(token.token for token in message.chunk.tokens)
                    on_token(len(answer.tokens))
                else:
                    answer.summary = message.summary
        except ServiceError as error:
            answer.error = error.message
        return answer

    async def status(self) -> generation_pb2.GetStatusResponse:
        """Return what the orchestrator says of its services."""
        return await fetch_status(self._address)

    async def kill_draft(self) -> None:
        """Kill the draft. When this returns the orchestrator knows."""
        await _kill(self._current_draft())
        await self._until_draft(is_available=False)

    async def swap_draft(self) -> None:
        """Put the other draft in the place of this one, while the target is kept from answering."""
        with _paused(self._target):
            await self.kill_draft()
            self._drafts.reverse()
            await self._current_draft().start()
            await self._until_draft(is_available=True)

    async def restart_target(self) -> None:
        """Kill the target and start it again; return when it serves."""
        await _kill(self._target)
        await self._target.start()
        await until_serving(self._target_address)

    async def mend(self) -> None:
        """Start the draft where there is none, and return when it is used."""
        if self._current_draft().pid is None:
            await self._current_draft().start()
        while not (await self.status()).draft.is_available:
            # One that was late is given up until a request tries again.
            await self.ask(generation_pb2.GenerateRequest(text="x", max_tokens=4))
            await asyncio.sleep(_PAUSE_S)

    def _current_draft(self) -> ServerProcess:
        return self._drafts[0]

    async def _until_draft(self, is_available: bool) -> None:
        while (await self.status()).draft.is_available != is_available:
            await asyncio.sleep(_PAUSE_S)


def _flags(model: Path, flags: Sequence[str]) -> tuple[str, ...]:
    return ("--model", str(model), "--log-level", "error", *flags)


async def _start(running: AsyncExitStack, process: ServerProcess) -> str:
    address = await process.start()
    running.push_async_callback(process.stop)
    return address


async def _kill(process: ServerProcess) -> None:
    if process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    while process.pid is not None:
        await asyncio.sleep(_PAUSE_S)


@contextmanager
def _paused(process: ServerProcess) -> Iterator[None]:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


async def until_serving(address: str) -> None:
    """Return once a server serves. Raises RuntimeError where it has ended."""
    async with open_channel(address) as channel:
        try:
            async for is_serving in watch_health(channel, ""):
                if is_serving:
                    return
        except grpc.aio.AioRpcError as error:
            raise RuntimeError(f"what was started at {address} has ended") from error
