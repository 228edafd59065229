"""Models of the Hugging Face hub, from a stand-in for it."""

import os
import subprocess
import termios
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.conftest import Pair
from tests.e2e.programs import Finished, command, environment, run
from tests.hub import COMMIT, REPO, StandIn, hub
from tests.ports import free_port
from tests.proxy import proxying
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e

TARGET = f"hf:{REPO}/large/target.gguf"
DRAFT = f"hf:{REPO}/draft.gguf@v1"


@pytest.fixture(scope="module")
def stand_in(pair: Pair) -> Iterator[StandIn]:
    with hub({"large/target.gguf": pair.target, "draft.gguf": pair.draft}) as server:
        yield server


def test_a_pair_of_the_hub_is_fetched_once(stand_in: StandIn, tmp_path: Path) -> None:
    finished = run(tmp_path, "pair", TARGET, DRAFT, HF_ENDPOINT=stand_in.url)
    assert (finished.returncode, finished.stdout) == (0, "the draft fits the target\n")
    assert sorted(stand_in.fetched) == ["draft.gguf", "large/target.gguf"]
    # What is cached is good enough, whether the hub answers or not, and a commit is the same file by another name.
    flags = ("--max-tokens", "8", "--exact", "off", "def main(")
    target = f"{TARGET}@{COMMIT}"
    finished = run(tmp_path, "generate", "--target", target, "--draft", DRAFT, *flags, HF_ENDPOINT=stand_in.url)
    assert finished.returncode == 0, finished.stderr
    assert len(stand_in.fetched) == 2
    away = f"http://127.0.0.1:{free_port()}"
    finished = run(tmp_path, "generate", *flags, HF_ENDPOINT=away, TARGET_MODEL_PATH=TARGET, DRAFT_MODEL_PATH=DRAFT)
    assert finished.returncode == 0, finished.stderr
    assert "8 tokens" in finished.stderr


def test_a_terminal_shows_progress(stand_in: StandIn, tmp_path: Path) -> None:
    screen, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    process = subprocess.Popen(
        command("pair", TARGET, DRAFT),
        env=environment(tmp_path) | {"HF_ENDPOINT": stand_in.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    # Linux ends what a terminal shows with EIO.
    with open(screen, "rb", buffering=0) as reader, suppress(OSError):
        while part := reader.read(4096):
            shown += part
    assert process.wait(PATIENCE_S) == 0
    assert b"target.gguf" in shown and b"100%" in shown


def _check(finished: Finished, *expected: str) -> None:
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.startswith("outrider: ")
    assert finished.stderr.count("\n") == 1, finished.stderr
    for text in expected:
        assert text in finished.stderr


def test_what_the_hub_does_not_have(stand_in: StandIn, tmp_path: Path) -> None:
    """Said before anything is started, on a single line: the library's own words are many."""
    finished = run(tmp_path, "serve", "--target", f"hf:{REPO}/model.gguf", HF_ENDPOINT=stand_in.url)
    _check(finished, f"there is no file model.gguf in {REPO} of {stand_in.url}")


def test_the_hub_is_asked_through_the_proxy_of_the_environment(stand_in: StandIn, tmp_path: Path) -> None:
    """And directly where `no_proxy` says so. The services that are started are called directly in either case."""
    with proxying() as proxy:
        variables = {"HF_ENDPOINT": stand_in.url, "http_proxy": proxy.url}
        finished = run(tmp_path, "pair", TARGET, DRAFT, **variables)
        _check(finished, "does not answer")
        assert proxy.requests and all(stand_in.url in request for request in proxy.requests)
        proxy.requests.clear()
        finished = run(tmp_path, "pair", TARGET, DRAFT, **variables, no_proxy="127.0.0.1")
        assert (finished.returncode, proxy.requests) == (0, []), finished.stderr


def test_no_network(pair: Pair, tmp_path: Path) -> None:
    """A draft that is not there is done without, one that cannot be fetched is not: it may well be there."""
    away = f"http://127.0.0.1:{free_port()}"
    finished = run(tmp_path, "generate", "--target", str(pair.target), "--draft", DRAFT, "a", HF_ENDPOINT=away)
    _check(finished, f"draft.gguf is not cached and {away} does not answer: ")
