"""The whole system on one machine: target, draft and orchestrator as three processes on loopback."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from services.frame.channel import open_channel
from services.frame.health import watch_health
from services.frame.server import check_free
from services.frame.startup import CODE_REFUSED, StartupError

_log = logging.getLogger(__name__)
_LISTENING = "listening on "
_FIRST_RESTART_S = 0.5
_LAST_RESTART_S = 10.0
_HEALTHY_AFTER_S = 10.0
_STOP_TIMEOUT_S = 15.0

ResultT = TypeVar("ResultT")


class RefusedError(StartupError):
    """A process of the stack refused to start and has said why on stderr."""


@dataclass(frozen=True)
class StackOptions:
    """What the stack serves, and how. Without a log level the environment decides. The last three are further flags."""

    target: Path
    draft: Path | None
    host: str = "127.0.0.1"
    port: int = 0
    log_level: str | None = "warning"
    target_flags: Sequence[str] = ()
    draft_flags: Sequence[str] = ()
    orchestrator_flags: Sequence[str] = ()


class ServerProcess:
    """One server process. It is started again after it dies, on the port that it had, with growing pauses."""

    def __init__(self, module: str, arguments: Sequence[str], host: str = "127.0.0.1", port: int = 0) -> None:
        self.module = module
        self._arguments = arguments
        self._host = host
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The id of the running process, None while there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> str:
        """Start and return the address. Raises RefusedError when the process ends instead."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", self.module, "--host", self._host, "--port", str(self._port), "--stop-with-stdin"),
            *self._arguments,
            # Never written to: it closes when this process dies, and the server stops.
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode()
        if not line.startswith(_LISTENING):
            await self._process.wait()
            raise RefusedError(f"{self.module} did not start")
        address = line.removeprefix(_LISTENING).strip()
        self._port = int(address.rpartition(":")[2])
        return address

    async def keep(self) -> None:
        """Start again whenever the process dies. Raises RefusedError when it refuses to start."""
        pause_s = _FIRST_RESTART_S
        loop = asyncio.get_running_loop()
        while True:
            assert self._process is not None
            started_s = loop.time()
            code = await self._process.wait()
            if code == CODE_REFUSED:
                raise RefusedError(f"{self.module} did not start")
            pause_s = _FIRST_RESTART_S if loop.time() - started_s > _HEALTHY_AFTER_S else pause_s
            _log.warning("%s ended with code %d, starting it again in %g s", self.module, code, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_RESTART_S)
            await self.start()

    async def stop(self) -> None:
        """Ask the process to end, and kill it when it does not."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def while_kept(waiting: Coroutine[Any, Any, ResultT], keeping: Coroutine[Any, Any, None]) -> ResultT:
    """Return what is waited for, while processes are kept running. Raises RefusedError when one refuses to start."""
    waiting_task, keeping_task = asyncio.ensure_future(waiting), asyncio.ensure_future(keeping)
    try:
        await asyncio.wait((waiting_task, keeping_task), return_when=asyncio.FIRST_COMPLETED)
        if keeping_task.done():
            keeping_task.result()
        return await waiting_task
    finally:
        waiting_task.cancel()
        keeping_task.cancel()


class Stack:
    """Starts everything on entry, stops everything on exit."""

    def __init__(self, options: StackOptions) -> None:
        self._options = options
        self._processes: list[ServerProcess] = []
        self.address = ""

    async def __aenter__(self) -> Self:
        """Return when the processes listen; `wait_ready` waits for the models."""
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def wait_ready(self) -> None:
        """Return when the orchestrator is healthy. Raises RefusedError when a model cannot be served."""
        await while_kept(_healthy(self.address), self.keep())

    async def keep(self) -> None:
        """Start again what dies, until cancelled. Raises RefusedError when something refuses to start."""
        keeping = [asyncio.ensure_future(process.keep()) for process in self._processes]
        try:
            await asyncio.gather(*keeping)
        finally:
            for task in keeping:
                task.cancel()

    def pid(self, module: str) -> int | None:
        """Return the id of a process by its module, None while it is not running."""
        return self._find(module).pid

    async def restart(self, module: str) -> None:
        """Start a process that has died, on the port that it had."""
        await self._find(module).start()

    async def _start(self) -> None:
        options = self._options
        # Before the models are read, which can take long.
        check_free(options.host, options.port)
        level = ("--log-level", options.log_level) if options.log_level else ()
        target = self._add(
            ServerProcess("services.target", ("--model", str(options.target), *level, *options.target_flags))
        )
        arguments = ["--target", await target.start(), *level, *options.orchestrator_flags]
        if options.draft is not None:
            draft = self._add(
                ServerProcess("services.draft", ("--model", str(options.draft), *level, *options.draft_flags))
            )
            arguments += ["--draft", await draft.start()]
        self.address = await self._add(ServerProcess("orchestrator", arguments, options.host, options.port)).start()

    def _find(self, module: str) -> ServerProcess:
        return next(process for process in self._processes if process.module == module)

    def _add(self, process: ServerProcess) -> ServerProcess:
        self._processes.append(process)
        return process

    async def _stop(self) -> None:
        # The orchestrator first, so that nothing is asked of services that are gone.
        for process in reversed(self._processes):
            await process.stop()


async def _healthy(address: str) -> None:
    async with open_channel(address) as channel:
        async for is_serving in watch_health(channel, ""):
            if is_serving:
                return
