"""Parts of a long measurement: each a program under a limit of its own, whose failure costs nothing but itself."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# What a program gets to write down what it has, once it was told to end.
_GRACE_S = 10.0


@dataclass(frozen=True)
class Part:
    """A command, and seconds that it may take."""

    name: str
    command: Sequence[str]
    limit_s: float


@dataclass(frozen=True)
class Outcome:
    """What became of a part. Its exit code is negative where a signal ended it, and None where it never ran."""

    name: str
    command: Sequence[str]
    limit_s: float
    took_s: float
    exit_code: int | None
    was_ended: bool
    problem: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it came to its end, and well."""
        return self.exit_code == 0 and not self.was_ended


def run_parts(parts: Sequence[Part], folder: Path, total_s: float) -> list[Outcome]:
    """Run one part after the other, within `total_s` in all; `parts.json` in the folder is written after each.

    What a part says goes into NAME.log there. Once the time is over the parts that are left do not run.
    """
    end_s = time.monotonic() + total_s
    outcomes: list[Outcome] = []
    for part in parts:
        limit_s = min(part.limit_s, end_s - time.monotonic() - _GRACE_S)
        outcomes.append(_run(part, limit_s, folder / f"{part.name}.log"))
        (folder / "parts.json").write_text(json.dumps([asdict(each) for each in outcomes], indent=2) + "\n")
    return outcomes


def _run(part: Part, limit_s: float, log: Path) -> Outcome:
    started_s = time.monotonic()

    def outcome(exit_code: int | None, *, was_ended: bool = False, problem: str = "") -> Outcome:
        took_s = round(time.monotonic() - started_s, 1)
        return Outcome(part.name, part.command, part.limit_s, took_s, exit_code, was_ended, problem)

    if limit_s <= 0:
        return outcome(None, problem="no time was left")
    with log.open("wb") as written:
        try:
            process = subprocess.Popen(
                part.command,
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=subprocess.STDOUT,
                # It is ended with whatever it has started.
                start_new_session=True,
            )
        except OSError as error:
            return outcome(None, problem=f"{part.command[0]}: {error.strerror}")
        try:
            return outcome(process.wait(limit_s))
        except subprocess.TimeoutExpired:
            return outcome(_end(process), was_ended=True)
        finally:
            if process.poll() is None:
                _end(process)


def _end(process: "subprocess.Popen[bytes]") -> int:
    """Interrupt a program and all of its group, and kill what does not end; return its exit code."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        return process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()
