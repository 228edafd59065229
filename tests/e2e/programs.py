"""Programs of ours as real processes."""

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests import environment as developers
from tests.waiting import PATIENCE_S, eventually

ROOT = Path(__file__).parents[2]
# One thread each, and little to probe at start-up. Through the environment, which the services inherit.
SETTINGS = {
    f"OUTRIDER_{service}_{name}": value
    for service in ("TARGET", "DRAFT")
    for name, value in (
        ("THREADS", "1"),
        ("BATCH_ROWS", "256"),
        ("PREFILL_ROWS", "64"),
        ("SLOTS", "2"),
        ("FLASH_ATTENTION", "off"),
    )
}
_WAIT = re.compile(r"^outrider: waiting for .*\n", re.MULTILINE)
# What tells rich about colours and terminals; the developer's own must not.
APPEARANCE = {"NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
MODULES = {"target": "services.target", "draft": "services.draft", "orchestrator": "orchestrator"}


def environment(home: Path) -> dict[str, str]:
    """The environment of a program that keeps its files below `home`, without what our own code has set in it."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(developers.SETTINGS) and name not in (*APPEARANCE, "GRPC_EXPERIMENTS")
    }
    return (
        inherited
        | SETTINGS
        | {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "protos"))),
            "PYTHONUNBUFFERED": "1",
            "XDG_CACHE_HOME": str(home),
            "COLUMNS": "80",
        }
    )


def command(*arguments: str, module: str = "orchestrator.cli") -> list[str]:
    """The command line of a program of ours; `outrider` unless another module is named."""
    return [sys.executable, "-P", "-m", module, *arguments]


@dataclass(frozen=True)
class Finished:
    """What became of a program. Its output is as it was written, carriage returns included, but for waits.

    What `outrider` says of these depends on the machine's pace.
    """

    returncode: int
    stdout: str
    stderr: str


def run(
    home: Path, *arguments: str, module: str = "orchestrator.cli", folder: Path | None = None, **variables: str
) -> Finished:
    """Run a program to its end, with further variables in its environment. Its output is not a terminal."""
    finished = subprocess.run(
        command(*arguments, module=module),
        cwd=folder,
        env=environment(home) | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    return Finished(finished.returncode, finished.stdout.decode(), _WAIT.sub("", finished.stderr.decode()))


def services_of(pid: int) -> dict[str, psutil.Process]:
    """The processes of the services that a program has started and that live, by name."""
    found = {}
    for child in psutil.Process(pid).children():
        # One that has just died has no command line any more.
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            arguments = child.cmdline()
            found.update({name: child for name, module in MODULES.items() if module in arguments})
    return found


def lives(process: psutil.Process) -> bool:
    """Whether a process has not ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run_in_terminal(home: Path, arguments: Sequence[str], **variables: str) -> Finished:
    """Run a command line to its end with a terminal as its stdout, which gives every byte as it was written."""
    reading, writing = pty.openpty()
    tty.setraw(writing)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            arguments,
            env=environment(home) | {"TERM": "xterm-256color", **variables},
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=errors,
        )
        os.close(writing)
        written = _read_to_its_end(reading)
        returncode = process.wait(PATIENCE_S)
        errors.seek(0)
        return Finished(returncode, written.decode(), errors.read().decode())


def _read_to_its_end(terminal: int) -> bytes:
    written = b""
    # Linux has an error for a terminal that nobody holds open any more, others an end of the file.
    with suppress(OSError):
        while part := os.read(terminal, 65536):
            written += part
    os.close(terminal)
    return written


@dataclass
class Serving:
    """`outrider serve`, with its services."""

    process: "subprocess.Popen[str]"
    address: str

    def services(self) -> dict[str, psutil.Process]:
        """The processes of the services that live, by name."""
        return services_of(self.process.pid)

    def kill(self, name: str) -> int:
        """Kill a service without a warning; return the id that its process had."""
        service = self.services()[name]
        service.send_signal(signal.SIGKILL)
        return int(service.pid)

    def restarted(self, name: str, old_pid: int) -> None:
        """Return once a service runs again in another process."""
        eventually(lambda: name in (services := self.services()) and services[name].pid != old_pid)


@contextmanager
def serving(home: Path, *arguments: str, **variables: str) -> Iterator[Serving]:
    """`outrider serve` on a free port, with exact text, from when it serves until the end of the block.

    HTTP is for tests that ask for it: all others would look for the same port.
    """
    http = () if "--http" in arguments else ("--http", "")
    process = subprocess.Popen(
        command("serve", "--port", "0", "--exact", "on", *http, *arguments),
        env=environment(home) | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # As a shell gives one to what it runs in the foreground: signals of a terminal go to all of it.
        process_group=0,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving on "), f"it said {line!r}"
        yield Serving(process, line.removeprefix("serving on ").strip())
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_S)
        assert process.stdout is not None
        process.stdout.close()
