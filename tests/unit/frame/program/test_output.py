"""The standard streams of real processes: encodings, full disks, closed descriptors, readers that went away."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
UNBUFFERED = [pytest.param("", id="buffered"), pytest.param("1", id="unbuffered")]

PROGRAM = """
import sys
from services.frame.program.output import announce, guarded_output, say

@guarded_output("program")
def main():
    {body}

main()
"""


def run(body: str, redirection: str = "", **environment: str) -> tuple[int, bytes, str]:
    """Run a program with that body and with the shell's redirection; return exit code, stdout and stderr."""
    finished = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {redirection}', sys.executable, PROGRAM.format(body=body)],
        env={**os.environ, "PYTHONUNBUFFERED": "", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return finished.returncode, finished.stdout, finished.stderr.decode()


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "é 日 \x9b".encode()),
        ("latin-1", b"\xe9 \\u65e5 \x9b"),
        ("ascii", b"\\xe9 \\u65e5 \\x9b"),
        ("ascii:strict", b"\\xe9 \\u65e5 \\x9b"),
    ],
)
def test_what_an_encoding_lacks_is_spelled_out(encoding: str, expected: bytes) -> None:
    body = 'print("\\xe9 \\u65e5 \\x9b")'
    assert run(body, PYTHONIOENCODING=encoding) == (0, expected + b"\n", "")


def test_a_byte_that_is_no_utf_8_does_not_come_back_as_one() -> None:
    """As it would in the C locale, where Python writes arguments as it read them."""
    assert run('print("\\udc9b")', LC_ALL="C", PYTHONUTF8="0") == (0, b"\\udc9b\n", "")


@needs_full
@pytest.mark.parametrize("unbuffered", UNBUFFERED)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param('print("a", flush=True)', id="at once"),
        pytest.param('print("a")', id="at the end"),
        pytest.param('print("a"); sys.exit(0)', id="at an exit"),
        pytest.param('announce("a")', id="an announcement"),
        pytest.param('import argparse; argparse.ArgumentParser().parse_args(["--help"])', id="help"),
    ],
)
def test_a_full_disk_is_one_sentence_and_code_1(body: str, unbuffered: str) -> None:
    code, _, errors = run(body, ">/dev/full", PYTHONUNBUFFERED=unbuffered)
    assert (code, errors) == (1, "program: cannot write to stdout: No space left on device\n")


@pytest.mark.parametrize("unbuffered", UNBUFFERED)
def test_a_closed_stdout_is_one_sentence_and_code_1(unbuffered: str) -> None:
    code, _, errors = run('print("a")', ">&-", PYTHONUNBUFFERED=unbuffered)
    assert (code, errors) == (1, "program: cannot write to stdout: Bad file descriptor\n")


def test_who_closed_stdout_wants_no_announcement() -> None:
    assert run('announce("a")', ">&-") == (0, b"", "")


def test_what_is_for_a_closed_stderr_does_not_end_up_in_stdout() -> None:
    assert run('say("program", "a"); print("b", file=sys.stderr); print("c")', "2>&-") == (0, b"c\n", "")


@needs_full
@pytest.mark.parametrize("unbuffered", UNBUFFERED)
@pytest.mark.parametrize("body", ['say("program", "a")', 'print("a", file=sys.stderr)'])
def test_a_stderr_that_is_full_leaves_the_exit_code(body: str, unbuffered: str) -> None:
    body = f"try: {body}\n    except OSError: pass\n    sys.exit(2)"
    assert run(body, "2>/dev/full", PYTHONUNBUFFERED=unbuffered) == (2, b"", "")


@needs_full
def test_both_full() -> None:
    assert run('print("a")', ">/dev/full 2>/dev/full") == (1, b"", "")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_no_file_gets_the_number_of_a_closed_stream(number: int) -> None:
    """What is written to stderr, by llama.cpp for one, would go into it."""
    body = f"import os; sys.exit(os.open(os.devnull, os.O_RDONLY) <= {number})"
    assert run(body, f"{number}>&-")[0] == 0


def test_a_closed_stdin_is_at_its_end() -> None:
    assert run("print(repr(sys.stdin.read()))", "<&-") == (0, b"''\n", "")


@pytest.mark.parametrize("unbuffered", UNBUFFERED)
@pytest.mark.parametrize("end", ["", "; sys.stdout.flush()"])
def test_a_reader_that_has_seen_enough_is_told_nothing(end: str, unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        finished = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(body=f'print("a"){end}')],
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=writing,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert (finished.returncode, finished.stderr) == (1, b"")


def test_other_errors_stay_what_they_are() -> None:
    code, _, errors = run('open("/no/such/file")')
    assert code == 1
    assert "FileNotFoundError" in errors


@pytest.mark.parametrize("body", ["raise KeyboardInterrupt", "import os, signal; os.kill(os.getpid(), signal.SIGINT)"])
def test_ctrl_c_is_no_traceback(body: str) -> None:
    assert run(body) == (130, b"", "")
