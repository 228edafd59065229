"""What company.py measures and with what settings: the services of a checkout; others are in company_peers.py."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from company_measure import Stream, run_together
from rig import until_serving
from tracing import environment

from orchestrator.stack.client import fetch_status, generate
from orchestrator.stack.stack import ServerProcess
from outrider.v1 import generation_pb2

ROOT = Path(__file__).resolve().parents[1]
_PAUSE_S = 0.01
# Tokens that the first stream may have had before the last one begins.
HEAD_START = 320
# A target that loads is waited for; a draft is given its time, since the benchmark is about who waits for whom.
_ORCHESTRATOR_FLAGS = ("--log-level", "error", "--target-patience-s", "300")
_COUNTS = ("num_cycles", "num_drafts", "num_draft_tokens", "num_accepted_tokens", "num_resyncs", "num_fallbacks")


@dataclass(frozen=True)
class Setting:
    """So many draft tokens, 0 for plain decoding, which can be had without a draft service that idles beside."""

    num_draft_tokens: int
    has_draft: bool = True

    @property
    def name(self) -> str:
        """How it is called on the command line and in results."""
        if self.num_draft_tokens:
            return str(self.num_draft_tokens)
        return "plain" if self.has_draft else "alone"

    @staticmethod
    def parse(name: str) -> "Setting":
        """Return the setting of this name. Raises ValueError where there is none."""
        if name in ("plain", "alone"):
            return Setting(0, has_draft=name == "plain")
        if not 1 <= int(name) <= 64:
            raise ValueError("1 to 64 draft tokens can be asked for")
        return Setting(int(name))


@dataclass(frozen=True)
class Models:
    """What every system runs, and how: context in tokens of each slot, threads of a decode."""

    target: Path
    draft: Path
    slots: int
    context: int
    threads: int

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of a service, and of the bare loop."""
        return ("--slots", str(self.slots), "--context", str(self.context), "--threads", str(self.threads))


@dataclass(frozen=True)
class Answer:
    """The streams of one measurement, and what the system counted meanwhile."""

    streams: Sequence[Stream]
    counts: dict[str, int]


class System(Protocol):
    """Something that is measured. Its processes are started by `start` and stopped by the stack that it is given."""

    name: str
    settings: Sequence[Setting]

    async def start(self, running: AsyncExitStack) -> None:
        """Return when it can be asked."""

    async def ask(self, prompts: Sequence[str], setting: Setting, num_tokens: int) -> Answer:
        """Go on with all prompts, greedily, until the first one has had so many tokens since all have begun."""

    def pids(self, setting: Setting) -> list[int]:
        """Return the ids of the processes that serve this setting; the others idle."""


@dataclass(frozen=True)
class Checkout:
    """A checkout of the project, and flags for its services. Where `record` is set, decodes are written down there."""

    root: Path
    target_flags: Sequence[str] = ()
    draft_flags: Sequence[str] = ()
    record: Path | None = None


class Services:
    """Target, draft and orchestrator of a checkout; for plain decoding without a draft, another two processes."""

    def __init__(self, name: str, checkout: Checkout, models: Models, settings: Sequence[Setting]) -> None:
        self.name = name
        self.settings = settings
        self._checkout = checkout
        self._models = models
        # With a draft and without one.
        self._addresses: dict[bool, str] = {}
        self._processes: dict[bool, list[ServerProcess]] = {True: [], False: []}

    async def start(self, running: AsyncExitStack) -> None:
        """Return when the orchestrators serve."""
        for has_draft in sorted({setting.has_draft for setting in self.settings}, reverse=True):
            self._addresses[has_draft] = await self._start_stack(running, has_draft)

    async def ask(self, prompts: Sequence[str], setting: Setting, num_tokens: int) -> Answer:
        """Go on with all prompts at once; see `System.ask`."""
        address = self._addresses[setting.has_draft]
        before = await _speculation(address)
        requests = [_request(text, setting, num_tokens + HEAD_START) for text in prompts]
        streams = await run_together([_streaming(address, request) for request in requests], num_tokens)
        after = await _speculation(address)
        return Answer(streams, {name: getattr(after, name) - getattr(before, name) for name in _COUNTS})

    def pids(self, setting: Setting) -> list[int]:
        """Return the ids of the processes that serve this setting; see `System.pids`."""
        return [process.pid for process in self._processes[setting.has_draft] if process.pid is not None]

    async def _start_stack(self, running: AsyncExitStack, has_draft: bool) -> str:
        checkout, processes = self._checkout, self._processes[has_draft]
        target_flags = ("--model", str(self._models.target), "--exact", "off", *checkout.target_flags)
        processes.append(self._service("target", target_flags))
        peers = ["--target", await self._start(running, processes[-1])]
        if has_draft:
            draft_flags = ("--model", str(self._models.draft), *checkout.draft_flags)
            processes.append(self._service("draft", draft_flags))
            peers += ["--draft", await self._start(running, processes[-1])]
        processes.append(ServerProcess("orchestrator", (*_ORCHESTRATOR_FLAGS, *peers)))
        address = await self._start(running, processes[-1])
        for server in (*peers[1::2], address):
            await until_serving(server)
        return address

    def _service(self, kind: str, flags: Sequence[str]) -> ServerProcess:
        flags = (*self._models.flags, "--log-level", "error", *flags)
        if record := self._checkout.record:
            return ServerProcess("company_service", ("--service", kind, "--record", f"{record}.{kind}", *flags))
        return ServerProcess(f"services.{kind}", flags)

    async def _start(self, running: AsyncExitStack, process: ServerProcess) -> str:
        root = self._checkout.root
        paths = (root, root / "protos", Path(__file__).parent)
        # The working directory would come before everything else.
        with environment(PYTHONPATH=os.pathsep.join(map(str, paths)), PYTHONSAFEPATH="1"):
            address = await process.start()
        running.push_async_callback(process.stop)
        return address


def _request(text: str, setting: Setting, num_tokens: int) -> generation_pb2.GenerateRequest:
    fixed, off = generation_pb2.SPECULATION_MODE_FIXED, generation_pb2.SPECULATION_MODE_OFF
    num_draft_tokens = setting.num_draft_tokens
    speculation = generation_pb2.Speculation(
        mode=fixed if num_draft_tokens else off,
        num_draft_tokens=num_draft_tokens,
        drafter=generation_pb2.DRAFTER_REMOTE,
    )
    return generation_pb2.GenerateRequest(text=text, max_tokens=num_tokens, seed=1, speculation=speculation)


def _streaming(address: str, request: generation_pb2.GenerateRequest) -> Callable[[Stream], Awaitable[None]]:
    async def ask(stream: Stream) -> None:
        async for message in generate(address, request):
            if num_tokens := len(message.chunk.tokens):
                stream.add(num_tokens)

    return ask


async def _speculation(address: str) -> generation_pb2.SpeculationStatistics:
    """Return what speculation did so far, once no request is under way."""
    while (status := await fetch_status(address)).num_active:
        await asyncio.sleep(_PAUSE_S)
    return status.speculation
