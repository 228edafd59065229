"""A server as a process: started, watched, started again after it has died, stopped.

On stdout a server says where it listens, when it serves, and how long it may take to stop; that is all that is read
there. Its stderr is passed on line by line.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Self

from orchestrator.peers.watch import find_obstacle
from services.frame.program.address import is_unix_address
from services.frame.program.printable import printable
from services.frame.program.startup import CODE_REFUSED, StartupError
from services.frame.rpc.channel import Credentials, open_channel
from services.frame.telemetry import named_service

_log = logging.getLogger(__name__)
_LISTENING = re.compile(r"listening on (.+)")
_SERVING = re.compile(r"serving on .+")
_STOPPING = re.compile(r"stopping, at most (\S+) s for calls under way")
_CHUNK_BYTES = 1 << 16
_FIRST_RESTART_S = 0.5
_LAST_RESTART_S = 10.0
_HEALTHY_AFTER_S = 10.0
# What a process may take to stop beyond the time that it gives to calls under way.
_STOP_TIMEOUT_S = 15.0
# A process on this machine that takes longer to answer is at work on something else.
_ANSWER_S = 1.0


class RefusedError(StartupError):
    """A process refused to start and has said why on stderr."""


class CrashedError(Exception):
    """A process ended twice in the same way and never served. The text is one sentence, with its own last line."""


class Run:
    """One run of a server's program, from its start to its end."""

    def __init__(self, process: asyncio.subprocess.Process, serving: asyncio.Event) -> None:
        """`serving` is set when the process says that it serves."""
        assert process.stdout is not None and process.stderr is not None
        self.process = process
        self.last_line = ""
        self.served_s: float | None = None
        # How long after its end the next run begins, once that is decided.
        self.pause_s: float | None = None
        self._serving = serving
        self._loop = asyncio.get_running_loop()
        # Done with the address, or with nothing when the process ends before it listens.
        self.listening: asyncio.Future[str] = self._loop.create_future()
        # Done with the seconds that it gives to calls under way, when it stops.
        self.stopping: asyncio.Future[float] = self._loop.create_future()
        self._reading = asyncio.gather(self._read(process.stdout), self._pass_on(process.stderr))

    @classmethod
    async def start(
        cls, module: str, arguments: Sequence[str], serving: asyncio.Event, variables: Mapping[str, str]
    ) -> Self:
        """Start the program, with these variables beside those of this process."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # Without -P the user's own files in the current folder could take the place of modules.
            *("-P", "-m", module, "--stop-with-stdin", *arguments),
            # Never written to: it closes when this process dies, and the server stops.
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # Ctrl-C in a terminal is for this process, which stops the others in their order.
            start_new_session=True,
            env=_environment(module) | dict(variables),
        )
        return cls(process, serving)

    async def ended(self) -> int:
        """Return the exit code once the process has ended and all that it said has been read."""
        await asyncio.shield(self._reading)
        return await self.process.wait()

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        async for line in _lines(stdout):
            if (found := _LISTENING.fullmatch(line)) and not self.listening.done():
                self.listening.set_result(found[1])
            elif _SERVING.fullmatch(line):
                self.served_s = self._loop.time()
                self._serving.set()
            elif (found := _STOPPING.fullmatch(line)) and not self.stopping.done():
                self.stopping.set_result(float(found[1]))
        if not self.listening.done():
            self.listening.set_result("")

    async def _pass_on(self, stderr: asyncio.StreamReader) -> None:
        async for said in _lines(stderr):
            # Not all lines are from loggers of ours: a library may repeat whatever a file holds.
            line = printable(said)
            self.last_line = line.strip() or self.last_line
            # The process must not wait where nobody reads our own stderr any more.
            with contextlib.suppress(OSError):
                print(line, file=sys.stderr, flush=True)


class ServerProcess:
    """One server. It is started again after it dies, on the port that it had, with growing pauses.

    What has never served is given up when it ends in the same way for the second time.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        host: str = "127.0.0.1",
        port: int = 0,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`variables` are set in its environment."""
        self.module = module
        # Set while it serves.
        self.serving = asyncio.Event()
        self._arguments = arguments
        self._host = host
        self._port = port
        self._variables = variables
        self._run: Run | None = None
        self._has_served = False
        # With which codes it ended before it served.
        self._codes: set[int] = set()
        self._pause_s = _FIRST_RESTART_S

    @property
    def name(self) -> str:
        """As in `outrider-target`."""
        return f"outrider-{_role(self.module)}"

    @property
    def pid(self) -> int | None:
        """The id of the running process, None while there is none."""
        return self._run.process.pid if self._run is not None and self._run.process.returncode is None else None

    async def start(self) -> str:
        """Start, once more where that ends before it listens, and return the address.

        Raises RefusedError, CrashedError where it ends in the same way again, and StartupError where the system does
        not let it start.
        """
        while True:
            arguments = ("--host", self._host, "--port", str(self._port), *self._arguments)
            self.serving.clear()
            try:
                self._run = await Run.start(self.module, arguments, self.serving, self._variables)
            except OSError as error:
                raise StartupError(f"cannot start {self.name} with {sys.executable}: {error.strerror}") from error
            if address := await self._run.listening:
                if not is_unix_address(address):
                    self._port = int(address.rpartition(":")[2])
                return address
            await self._pause_after(self._run)

    async def keep(self) -> None:
        """Start again whenever the process dies. Raises RefusedError and CrashedError, see `start`."""
        while True:
            assert self._run is not None
            await self._pause_after(self._run)
            await self.start()

    async def _pause_after(self, run: Run) -> None:
        """Return when a run has ended and it is time for the next one. Raises RefusedError and CrashedError."""
        code = await run.ended()
        self.serving.clear()
        # Whoever keeps it may change in between.
        if run.pause_s is None:
            run.pause_s = self._judge(run, code)
            _log.warning("%s ended with %s, starting it again in %g s", self.name, _named(code), run.pause_s)
        await asyncio.sleep(run.pause_s)

    def _judge(self, run: Run, code: int) -> float:
        """Return how long to wait before the next run. Raises RefusedError and CrashedError."""
        if code == CODE_REFUSED:
            raise RefusedError(f"{self.name} did not start")
        if run.served_s is not None:
            self._has_served = True
            if asyncio.get_running_loop().time() - run.served_s > _HEALTHY_AFTER_S:
                self._pause_s = _FIRST_RESTART_S
        elif code in self._codes and not self._has_served:
            raise CrashedError(self._crash(code, run.last_line))
        self._codes.add(code)
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LAST_RESTART_S)
        return pause_s

    def _crash(self, code: int, last_line: str) -> str:
        told = f"; its last line: {last_line}" if last_line else ", without a word"
        return f"{self.name} ended twice with {_named(code)} before it served{told}"

    async def doing(self, credentials: Credentials) -> str:
        """Return what it is at before it serves, in a few words."""
        listening = self._run.listening if self._run is not None and self.pid is not None else None
        # Empty where it has ended before it listened.
        if listening is None or not listening.done() or not (address := listening.result()):
            return "starting"
        async with open_channel(address, credentials=credentials) as channel:
            obstacle = await find_obstacle(channel, _ANSWER_S)
        return "starting" if obstacle is None else obstacle.text

    async def stop(self) -> None:
        """Ask the process to end. It is killed where it takes longer than it said, and where this is cancelled."""
        if self._run is not None and self.pid is not None:
            self._run.process.terminate()
            try:
                await self._until_stopped(self._run)
            except TimeoutError:
                _log.warning("%s does not stop and is killed", self.name)
            finally:
                await self.kill()

    async def kill(self) -> None:
        """End the process at once; return when it is gone."""
        if self._run is not None:
            if self.pid is not None:
                self._run.process.kill()
            await self._run.ended()

    async def _until_stopped(self, run: Run) -> None:
        """Raises TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(_STOP_TIMEOUT_S) as limit:
            ending = asyncio.ensure_future(run.ended())
            await asyncio.wait((ending, run.stopping), return_when=asyncio.FIRST_COMPLETED)
            if run.stopping.done():
                limit.reschedule(loop.time() + run.stopping.result() + _STOP_TIMEOUT_S)
            await ending


def _environment(module: str) -> dict[str, str]:
    """Return what a process finds in its environment: a name that is meant for us becomes one of its own in traces."""
    named = named_service()
    return {**os.environ, "OTEL_SERVICE_NAME": f"{named}-{_role(module)}"} if named else dict(os.environ)


def _role(module: str) -> str:
    return module.rpartition(".")[2]


def _named(code: int) -> str:
    """Return an exit code in words, with the signal where it was one."""
    meaning = signal.strsignal(-code) if code < 0 else None
    return f"code {code} ({meaning})" if meaning else f"code {code}"


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Yield lines of any length, without their ends."""
    rest = b""
    while chunk := await stream.read(_CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")
