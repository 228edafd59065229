"""Programs of ours as real processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
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
MODULES = {"target": "services.target", "draft": "services.draft", "orchestrator": "orchestrator"}


def environment(home: Path) -> dict[str, str]:
    """The environment of a program that keeps its files below `home`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(developers.SETTINGS)}
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
    return [sys.executable, "-m", module, *arguments]


@dataclass(frozen=True)
class Finished:
    """What became of a program. Its output is as it was written, carriage returns included."""

    returncode: int
    stdout: str
    stderr: str


def run(home: Path, *arguments: str, module: str = "orchestrator.cli", **variables: str) -> Finished:
    """Run a program to its end, with further variables in its environment. Its output is not a terminal."""
    finished = subprocess.run(
        command(*arguments, module=module),
        env=environment(home) | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=2 * PATIENCE_S,
        check=False,
    )
    return Finished(finished.returncode, finished.stdout.decode(), finished.stderr.decode())


@dataclass
class Serving:
    """`outrider serve`, with its services."""

    process: "subprocess.Popen[str]"
    address: str

    def services(self) -> dict[str, psutil.Process]:
        """The processes of the services that live, by name."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            # One that has just died has no command line any more.
            with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
                arguments = child.cmdline()
                found.update({name: child for name, module in MODULES.items() if module in arguments})
        return found

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
    """`outrider serve` on a free port, with exact text, from when it serves until the end of the block."""
    process = subprocess.Popen(
        command("serve", "--port", "0", "--exact", "on", *arguments),
        env=environment(home) | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
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
