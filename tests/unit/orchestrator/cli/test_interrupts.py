"""Signals that end a command, in real processes."""

import io
import os
import pty
import signal
import subprocess
import sys
import tty
from collections.abc import Callable, Iterator

import pytest

from tests.waiting import PATIENCE_S

PROGRAM = """
import asyncio, signal, sys, time
from orchestrator.cli.interrupts import Interrupted, interruptible, run

def say(line):
    print(line, flush=True)

async def main():
    try:
        say("at work")
        await asyncio.Event().wait()
    finally:
        say("stopping")
        try:
            if sys.argv[1] == "slow":
                await asyncio.Event().wait()
        finally:
            say("stopped")

if sys.argv[1] == "ignoring":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
try:
    with interruptible():
        if sys.argv[1] == "without a loop":
            say("at work")
            time.sleep(3600)
        run(main())
except Interrupted as error:
    sys.exit(error.code)
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the program, return once it is at work, and kill what is left of it after the test."""
    processes: list[subprocess.Popen[str]] = []

    def begin(mode: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, mode], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        expect(process, "at work")
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def expect(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


def read_until(terminal: io.RawIOBase, end: bytes) -> bytes:
    said = b""
    while not said.endswith(end):
        said += terminal.read(1) or b""
    return said


CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.mark.parametrize(("number", "code"), CODES)
def test_the_first_signal_lets_it_end_in_order(start: Start, number: int, code: int) -> None:
    process = start("quick")
    process.send_signal(number)
    expect(process, "stopping")
    expect(process, "stopped")
    assert process.wait(PATIENCE_S) == code


@pytest.mark.parametrize(("number", "code"), CODES)
def test_a_terminals_line_is_ended_before_the_end_is_waited_for(number: int, code: int) -> None:
    """What is said of that needs a line of its own: a text may have stopped in the middle of one."""
    reading, writing = pty.openpty()
    tty.setraw(writing)
    with os.fdopen(reading, "rb", buffering=0) as terminal:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, "quick"], stdout=writing)
        os.close(writing)
        assert read_until(terminal, b"at work\n") == b"at work\n"
        process.send_signal(number)
        assert read_until(terminal, b"stopped\n") == b"\nstopping\nstopped\n"
        assert process.wait(PATIENCE_S) == code


@pytest.mark.parametrize(("number", "code"), CODES)
def test_the_next_one_hurries_and_the_first_one_counts(start: Start, number: int, code: int) -> None:
    process = start("slow")
    process.send_signal(number)
    expect(process, "stopping")
    process.send_signal(signal.SIGTERM)
    expect(process, "stopped")
    assert process.wait(PATIENCE_S) == code


@pytest.mark.parametrize(("number", "code"), CODES[1:])
def test_signals_count_before_there_is_an_event_loop(start: Start, number: int, code: int) -> None:
    process = start("without a loop")
    process.send_signal(number)
    assert process.wait(PATIENCE_S) == code


def test_what_is_ignored_stays_ignored(start: Start) -> None:
    """As below nohup."""
    process = start("ignoring")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    expect(process, "stopping")
    assert process.wait(PATIENCE_S) == 143
