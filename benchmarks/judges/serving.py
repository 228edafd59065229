"""What the judges judge: the bundled pair as `outrider serve` serves it, and beside it a model that calls a tool."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from caller import write_caller

from orchestrator.stack.bundled import bundled_pair

# The pair has none. What is said in a chat goes on as it would without one, so that both can be compared.
TEMPLATE = "{{ messages | map(attribute='content') | join('\\n') }}"
_URL = re.compile(r"HTTP at (\S+)")
# Slots are short: what is asked for without a limit is written until its slot is full.
_FLAGS = ("--port", "0", "--http", "127.0.0.1:0", "--slots", "4", "--context", "512")


@contextmanager
def served_pair(folder: Path) -> Iterator[str]:
    """Serve the pair with a template for chats, to the bit as plain decoding; its files are in a folder.

    Raises SystemExit where it does not come to be served.
    """
    target, draft = bundled_pair()
    chatting = folder / "target.gguf"
    copy = (sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--force", "--chat-template", TEMPLATE)
    subprocess.run((*copy, target, chatting), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with _served(folder / "pair.log", "--exact", "on", "--target", chatting, "--draft", draft) as url:
        yield url


@contextmanager
def served_caller(folder: Path) -> Iterator[str]:
    """Serve the model that calls a tool. Raises SystemExit where it does not come to be served."""
    with _served(folder / "caller.log", "--target", write_caller(folder / "caller.gguf")) as url:
        yield url


@contextmanager
def _served(log: Path, *flags: str | Path) -> Iterator[str]:
    command = (sys.executable, "-m", "orchestrator.cli", "serve", *_FLAGS, *flags)
    with log.open("w") as said:
        serving = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True)
        try:
            yield _address(serving, log)
        finally:
            serving.terminate()
            serving.communicate()


def _address(serving: subprocess.Popen[str], log: Path) -> str:
    assert serving.stdout is not None
    for line in serving.stdout:
        if found := _URL.search(line):
            return found[1]
    sys.exit(f"nothing is served:\n{log.read_text()[-2000:]}")
