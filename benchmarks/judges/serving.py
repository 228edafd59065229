"""The bundled pair as `outrider serve` serves it, with a template for chats, and to the bit as plain decoding."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.stack.bundled import bundled_pair

# The pair has none. What is said in a chat goes on as it would without one, so that both can be compared.
TEMPLATE = "{{ messages | map(attribute='content') | join('\\n') }}"
_URL = re.compile(r"HTTP at (\S+)")
# Slots are short: what is asked for without a limit is written until its slot is full.
_FLAGS = ("--exact", "on", "--port", "0", "--http", "127.0.0.1:0", "--slots", "4", "--context", "512")


@contextmanager
def served_pair(folder: Path, url: str = "") -> Iterator[str]:
    """Serve the pair, its files in a folder, and give where it is; or give `url`, where that is not empty.

    Raises SystemExit where it does not come to be served.
    """
    if url:
        yield url.rstrip("/")
        return
    target, draft = bundled_pair()
    chatting = folder / "target.gguf"
    copy = (sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--force", "--chat-template", TEMPLATE)
    subprocess.run((*copy, target, chatting), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    command = (sys.executable, "-m", "orchestrator.cli", "serve", *_FLAGS, "--target", chatting, "--draft", draft)
    with (folder / "serve.log").open("w") as log:
        serving = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield _address(serving, folder / "serve.log")
        finally:
            serving.terminate()
            serving.communicate()


def _address(serving: subprocess.Popen[str], log: Path) -> str:
    assert serving.stdout is not None
    for line in serving.stdout:
        if found := _URL.search(line):
            return found[1]
    sys.exit(f"nothing is served:\n{log.read_text()[-2000:]}")
