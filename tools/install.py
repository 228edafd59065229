"""Run pip and show how far it is instead of all that it says; where it fails, the end of that.

`python tools/install.py LOG ARGUMENTS` calls `pip install ARGUMENTS`, writes everything into the file LOG and ends with
pip's exit code. On a terminal one line changes, elsewhere a line is written now and then. Nothing but the standard
library is there yet.
"""

import subprocess
import sys
import threading
import time
from pathlib import Path

# Of what pip says, what tells where it is; the longest part, the build of llama.cpp, says nothing for minutes.
STAGES = ("Collecting ", "Building wheel", "Building editable", "Installing collected packages", "Installing build")
SHOWN = 30
_REFRESH_S = 1.0
_AGAIN_S = 30.0


class Progress:
    """What pip is at, shown until it is closed."""

    def __init__(self) -> None:
        self.stage = "starting pip"
        self._started_s = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_showing)
        self._thread.start()

    def note(self, line: str) -> None:
        """Take in a line of pip's."""
        if line.lstrip().startswith(STAGES):
            # Packages of the last stage fill a page.
            self.stage = line.strip().partition(" (")[0].partition(": ")[0]

    def close(self) -> None:
        """Stop showing."""
        self._has_ended.set()
        self._thread.join()
        if self._is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _keep_showing(self) -> None:
        while not self._has_ended.wait(_REFRESH_S if self._is_terminal else _AGAIN_S):
            line = f"{self.stage[:60]}, {time.monotonic() - self._started_s:.0f} s"
            text = f"\r\x1b[K{line}" if self._is_terminal else f"{line}\n"
            print(text, end="", file=sys.stderr, flush=True)


def install(log: Path, arguments: list[str]) -> int:
    """Call pip and return its exit code."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        *arguments,
    ]
    progress = Progress()
    lines: list[str] = []
    try:
        with (
            log.open("w", encoding="utf-8") as file,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            ) as pip,
        ):
            assert pip.stdout is not None
            for line in pip.stdout:
                file.write(line)
                lines = [*lines[1 - SHOWN :], line]
                progress.note(line)
    finally:
        progress.close()
    if pip.returncode:
        sys.stderr.writelines(lines)
        print(f"pip has failed; {log} holds all that it said", file=sys.stderr)
    return pip.returncode


if __name__ == "__main__":
    sys.exit(install(Path(sys.argv[1]), sys.argv[2:]))
