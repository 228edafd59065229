"""The whole system on one machine: target, draft and orchestrator as three processes on loopback."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from orchestrator.stack.process import ServerProcess
from services.frame.rpc.channel import ANONYMOUS, Credentials
from services.frame.server import check_free

ResultT = TypeVar("ResultT")


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


async def while_kept(waiting: Coroutine[Any, Any, ResultT], keeping: Coroutine[Any, Any, None]) -> ResultT:
    """Return what is waited for, while processes are kept running. Raises what ends the keeping."""
    waiting_task, keeping_task = asyncio.ensure_future(waiting), asyncio.ensure_future(keeping)
    try:
        await asyncio.wait((waiting_task, keeping_task), return_when=asyncio.FIRST_COMPLETED)
        if keeping_task.done():
            keeping_task.result()
        return await waiting_task
    finally:
        waiting_task.cancel()
        keeping_task.cancel()
        # One error is told; the other one may be its consequence.
        await asyncio.gather(waiting_task, keeping_task, return_exceptions=True)


class Processes:
    """Server processes that are kept together; they stop in the reverse of the order in which they were added."""

    def __init__(self, credentials: Credentials = ANONYMOUS) -> None:
        """`credentials` are how those with a model are called."""
        self._processes: list[ServerProcess] = []
        self._credentials = credentials

    def add(self, process: ServerProcess) -> ServerProcess:
        """Take a process in, started or not."""
        self._processes.append(process)
        return process

    async def keep(self) -> None:
        """Start again what dies, until cancelled. Raises RefusedError and CrashedError, see `ServerProcess.start`."""
        keeping = [asyncio.ensure_future(process.keep()) for process in self._processes]
        try:
            await asyncio.gather(*keeping)
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.wait(keeping)

    async def obstacles(self) -> str:
        """Return which of them do not serve yet, and what those with a model are at."""
        waited_for = [process for process in self._processes if not process.serving.is_set()]
        loading = [process for process in waited_for if process.module != "orchestrator"]
        doing = await asyncio.gather(*(process.doing(self._credentials) for process in loading))
        told = [f"{process.name} ({each})" for process, each in zip(loading, doing, strict=True)]
        # It waits for the others.
        return " and ".join(told or [process.name for process in waited_for])

    async def survivor(self) -> str:
        """Return which of them is stopping."""
        names = [process.name for process in reversed(self._processes) if process.pid is not None]
        return f"the end of {names[0]}, which lets requests under way finish" if names else "the end"

    async def stop(self) -> None:
        """Stop all of them, one after the other. Cancelled, it kills what is left."""
        try:
            for process in reversed(self._processes):
                await process.stop()
        except asyncio.CancelledError:
            await asyncio.gather(*(process.kill() for process in self._processes))
            raise


class Stack(Processes):
    """Starts everything on entry, stops everything on exit."""

    def __init__(self, options: StackOptions, credentials: Credentials = ANONYMOUS) -> None:
        super().__init__(credentials)
        self._options = options
        self.address = ""

    async def __aenter__(self) -> Self:
        """Return when the processes listen; `wait_ready` waits for the models."""
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the processes; return when they listen. Raises RefusedError and CrashedError."""
        options = self._options
        # Before the models are read, which can take long.
        check_free(options.host, options.port)
        level = ("--log-level", options.log_level) if options.log_level else ()
        target = self.add(
            ServerProcess("services.target", ("--model", str(options.target), *level, *options.target_flags))
        )
        arguments = ["--target", await target.start(), *level, *options.orchestrator_flags]
        if options.draft is not None:
            draft = self.add(
                ServerProcess("services.draft", ("--model", str(options.draft), *level, *options.draft_flags))
            )
            arguments += ["--draft", await draft.start()]
        self.address = await self.add(ServerProcess("orchestrator", arguments, options.host, options.port)).start()

    async def wait_ready(self) -> None:
        """Return when the orchestrator serves. Raises RefusedError, as for a wrong model, and CrashedError."""
        await while_kept(self._find("orchestrator").serving.wait(), self.keep())

    def pid(self, module: str) -> int | None:
        """Return the id of a process by its module, None while it is not running."""
        return self._find(module).pid

    async def restart(self, module: str) -> None:
        """Start a process that has died, on the port that it had."""
        await self._find(module).start()

    def _find(self, module: str) -> ServerProcess:
        return next(process for process in self._processes if process.module == module)
