"""`outrider chat` in a terminal."""

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from models.llama_gguf import read_llama, write_llama
from tests.e2e.conftest import Pair
from tests.e2e.programs import command, environment
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.e2e

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


class Chat:
    """A chat whose stdin is a terminal; what it prints is read from a pipe."""

    def __init__(self, home: Path, target: Path, *more: str, **variables: str) -> None:
        self._terminal, theirs = pty.openpty()
        flags = ("--target", str(target), "--exact", "off", "--max-tokens", "4", "--temperature", "0", *more)
        self.process = subprocess.Popen(
            command("chat", *flags),
            env=environment(home) | variables,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        os.close(theirs)

    def until_asked(self) -> str:
        """Return what was printed up to the next prompt."""
        assert self.process.stdout is not None
        printed = b""
        while not printed.endswith(b"> "):
            byte = self.process.stdout.read(1)
            assert byte, f"it ended after {printed!r}"
            printed += byte
        return printed.decode()

    def say(self, typed: bytes) -> None:
        os.write(self._terminal, typed)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate(timeout=PATIENCE_S)
        os.close(self._terminal)


@pytest.fixture
def chatty(pair: Pair, tmp_path: Path) -> Path:
    """The bundled target, which knows how a chat looks."""
    config, tensors, vocabulary = read_llama(pair.target)
    target = tmp_path / "target.gguf"
    write_llama(target, config, tensors, replace(vocabulary, chat_template=TEMPLATE), name="chat", file_type="F16")
    return target


@pytest.fixture
def chat(home: Path, chatty: Path) -> Iterator[Chat]:
    chat = Chat(home, chatty)
    yield chat
    chat.close()


def test_a_chat_that_ends_with_an_empty_line(chat: Chat) -> None:
    chat.until_asked()
    chat.say(b"def main(\n")
    assert len(chat.until_asked()) > len("> ")
    chat.say(b"\n")
    assert chat.process.wait(PATIENCE_S) == 0


def test_a_chat_that_ends_with_its_input_ends_its_line(chat: Chat) -> None:
    chat.until_asked()
    chat.say(b"\x04")
    assert chat.process.wait(PATIENCE_S) == 0
    assert chat.process.stdout is not None
    assert chat.process.stdout.read() == b"\n"


def test_a_chat_that_is_interrupted_at_its_prompt(chat: Chat) -> None:
    """It does not wait for the line that would have been said."""
    chat.until_asked()
    chat.process.send_signal(signal.SIGINT)
    assert chat.process.wait(PATIENCE_S) == 130


def test_an_interrupt_ends_the_answer_and_not_the_chat(home: Path, chatty: Path) -> None:
    chat = Chat(home, chatty, "--max-tokens", "-1")
    try:
        chat.until_asked()
        chat.say(b"def main(\n")
        # The answer has begun: it would go on to the end of the context.
        assert chat.process.stdout is not None
        first = chat.process.stdout.read(1)
        chat.process.send_signal(signal.SIGINT)
        assert (first.decode() + chat.until_asked()).endswith("\n> ")
        chat.say(b"\n")
        assert chat.process.wait(PATIENCE_S) == 0
    finally:
        chat.close()


def test_a_message_that_is_refused_does_not_end_the_chat(home: Path, chatty: Path) -> None:
    chat = Chat(home, chatty, OUTRIDER_TARGET_CONTEXT="64")
    try:
        chat.until_asked()
        chat.say(b"a b c d " * 50 + b"\n")
        assert chat.until_asked() == "> "
        chat.say(b"def main(\n")
        assert len(chat.until_asked()) > len("> ")
        chat.say(b"\n")
        assert chat.process.wait(PATIENCE_S) == 0
    finally:
        chat.close()


def test_a_message_of_several_lines_and_what_the_model_is_told_before(home: Path, chatty: Path) -> None:
    chat = Chat(home, chatty, "--system", "class Stack:", "--seed", "1", "--speculation", "off")
    try:
        chat.until_asked()
        chat.say(b'"""def main(\n\n):\n"""\n')
        assert chat.until_asked().startswith(". . . ")
        chat.say(b"\n")
        assert chat.process.wait(PATIENCE_S) == 0
    finally:
        chat.close()
