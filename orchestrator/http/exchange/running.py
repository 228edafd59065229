"""The generations that one request asks for: run beside each other, and given up where the client has vanished."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from starlette.types import Receive

from orchestrator.generation.service import GenerationService
from orchestrator.http.exchange.errors import ClientGoneError, renamed
from outrider.v1 import generation_pb2
from services.frame.rpc.errors import ServiceError
from services.frame.telemetry import TraceHeaders

ResultT = TypeVar("ResultT")
# Takes a message of one of the generations, by its index, and returns once there is room for the next.
Tell: TypeAlias = Callable[[int, generation_pb2.GenerateResponse], Awaitable[None]]


@dataclass
class Answer:
    """A whole generation."""

    chunks: list[generation_pb2.GenerateChunk] = field(default_factory=list)
    summary: generation_pb2.GenerateSummary = field(default_factory=generation_pb2.GenerateSummary)
    # Where asked for.
    prompt: list[generation_pb2.PromptToken] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of its text."""
        return "".join(chunk.text for chunk in self.chunks)

    @property
    def content(self) -> str:
        """Of a chat: what is said."""
        return "".join(chunk.content for chunk in self.chunks)

    @property
    def reasoning(self) -> str:
        """Of a chat: what was thought."""
        return "".join(chunk.reasoning for chunk in self.chunks)

    @property
    def tokens(self) -> list[generation_pb2.GeneratedToken]:
        """Its tokens in order."""
        return [token for chunk in self.chunks for token in chunk.tokens]


@dataclass(frozen=True)
class Generations:
    """What one request asks for, of which `most_at_once` are run beside each other.

    `names` are the fields of the request by their beginnings in GenerateRequest, for errors.
    """

    service: GenerationService
    requests: Sequence[generation_pb2.GenerateRequest]
    headers: TraceHeaders
    names: Mapping[str, str]
    most_at_once: int

    async def run(self, tell: Tell) -> None:
        """Generate. The first error ends all of them. Raises ServiceError."""
        try:
            if len(self.requests) == 1:
                await self._generate(0, tell)
            else:
                await self._generate_all(tell)
        except ServiceError as error:
            raise renamed(error, self.names) from error.__cause__

    async def collect(self) -> list[Answer]:
        """Return all answers. Raises ServiceError."""
        answers = [Answer() for _ in self.requests]

        async def keep(index: int, message: generation_pb2.GenerateResponse) -> None:
            match message.WhichOneof("message"):
                case "chunk":
                    answers[index].chunks.append(message.chunk)
                case "prompt":
                    answers[index].prompt.extend(message.prompt.tokens)
                case _:
                    answers[index].summary = message.summary

        await self.run(keep)
        return answers

    async def _generate(self, index: int, tell: Tell) -> None:
        async def send(message: generation_pb2.GenerateResponse) -> None:
            await tell(index, message)

        await self.service.generate(self.requests[index], self.headers, send)

    async def _generate_all(self, tell: Tell) -> None:
        room = asyncio.Semaphore(self.most_at_once)

        async def generate(index: int) -> None:
            async with room:
                await self._generate(index, tell)

        generating = [asyncio.ensure_future(generate(index)) for index in range(len(self.requests))]
        try:
            await asyncio.gather(*generating)
        finally:
            for task in generating:
                task.cancel()
            await asyncio.gather(*generating, return_exceptions=True)


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Return what `work` comes to. The body of the request must have been read.

    Raises ClientGoneError where the client vanishes before that, once the work, which is cancelled, has ended.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
