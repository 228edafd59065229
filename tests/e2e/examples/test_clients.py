"""The clients of the orchestrator: the text of our own client, and every refusal in one line."""

import asyncio
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.examples.running import PROMPT, VERIFY, end, run_example, start, status_of, told_by_outrider
from tests.e2e.programs import Serving, run_in_terminal
from tests.e2e.wild import HARMLESS, NAME_SHOWN, SHOWN, TOKENS
from tests.ports import free_port
from tests.proxy import VARIABLES, proxying
from tests.waiting import eventually

pytestmark = pytest.mark.e2e

ASKED = ("--max-tokens", "64", "--temperature", "0.8", "--seed", "11", PROMPT)


def test_the_text_is_the_one_of_our_own_client(system: Serving, client: Sequence[str], home: Path) -> None:
    expected = told_by_outrider(home, system, *ASKED)
    finished = run_example(home, client, "--address", system.address, *ASKED)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == expected["text"]
    line = r"\n64 tokens, \d+\.\d tokens/s, \d+ of \d+ draft tokens accepted, seed 11\n"
    assert re.fullmatch(line, finished.stderr), finished.stderr


def test_a_seed_of_64_bits_comes_back_whole(system: Serving, client: Sequence[str], home: Path) -> None:
    asked = ("--address", system.address, "--max-tokens", "4", "--seed", str(2**64 - 1), PROMPT)
    assert run_example(home, client, *asked).stderr.endswith(f"seed {2**64 - 1}\n")


def test_a_proxy_in_the_environment_is_not_asked(system: Serving, client: Sequence[str], home: Path) -> None:
    target = status_of(system).target.address
    with proxying() as proxy:
        variables = dict.fromkeys(VARIABLES, proxy.url)
        for command, address in ((client, system.address), (VERIFY, target)):
            finished = run_example(home, command, "--address", address, "--max-tokens", "4", PROMPT, **variables)
            assert (finished.returncode, proxy.requests) == (0, []), finished.stderr


def test_an_interrupt_ends_the_work_behind_it(system: Serving, client: Sequence[str], home: Path) -> None:
    num_tokens = 1800
    before = status_of(system).speculation
    process = start(home, [*client, "--address", system.address, "--max-tokens", str(num_tokens), PROMPT])
    assert process.stdout is not None
    read = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    finished = end(process, read)
    assert (finished.returncode, finished.stderr) == (130, "")
    eventually(lambda: status_of(system).num_active == 0)
    after = status_of(system).speculation
    # Each cycle commits the target's own token and those that were accepted.
    num_cycles = after.num_cycles - before.num_cycles
    num_accepted = after.num_accepted_tokens - before.num_accepted_tokens
    assert 0 < num_cycles + num_accepted < num_tokens


def test_a_refusal_is_one_line(system: Serving, client: Sequence[str], home: Path) -> None:
    finished = run_example(home, client, "--address", system.address, "--max-tokens", "0", PROMPT)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert re.fullmatch(r"INVALID_ARGUMENT.*: ask for at least one token\b.*\n", finished.stderr)


@pytest.mark.parametrize("flag", ["--max-tokens", "--temperature", "--timeout", "--seed"])
def test_a_value_that_is_no_number(client: Sequence[str], home: Path, flag: str) -> None:
    finished = run_example(home, client, flag, "many", PROMPT)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "usage:" in finished.stderr
    assert any(flag in line and "'many'" in line for line in finished.stderr.splitlines())


def test_a_deadline_that_passes(system: Serving, client: Sequence[str], home: Path) -> None:
    finished = run_example(home, client, "--address", system.address, "--timeout", "0.001", PROMPT)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert re.fullmatch(r"DEADLINE_EXCEEDED.*\n", finished.stderr)


def test_nobody_answers(client: Sequence[str], home: Path) -> None:
    finished = run_example(home, client, "--address", f"127.0.0.1:{free_port()}", PROMPT)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert re.fullmatch(r"UNAVAILABLE.*\n", finished.stderr)


async def test_a_terminal_is_not_at_the_mercy_of_the_model(wild: str, client: Sequence[str], home: Path) -> None:
    finished = await asyncio.to_thread(run_in_terminal, home, [*client, "--address", wild, PROMPT])
    assert (finished.returncode, finished.stdout) == (0, SHOWN + "".join(HARMLESS))
    refused = await asyncio.to_thread(run_in_terminal, home, [*client, "--address", wild, "x"])
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.endswith(f": not {NAME_SHOWN}\nnor that\n")


async def test_a_pipe_gets_every_byte(wild: str, client: Sequence[str], home: Path) -> None:
    finished = await asyncio.to_thread(run_example, home, client, "--address", wild, PROMPT)
    assert (finished.returncode, finished.stdout) == (0, "".join(TOKENS))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
async def test_a_full_disk_is_one_sentence(wild: str, client: Sequence[str], home: Path) -> None:
    full = ["sh", "-c", 'exec "$@" >/dev/full', "sh", *client, "--address", wild, PROMPT]
    finished = await asyncio.to_thread(run_example, home, full)
    assert finished.returncode == 1
    assert re.fullmatch(r"cannot write to stdout: .*[Nn]o space left on device.*\n", finished.stderr)
