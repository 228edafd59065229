"""The clients that are compiled."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.e2e.examples.running import PROMPT, run_example, told_by_outrider
from tests.e2e.programs import Serving, run_in_terminal
from tests.e2e.wild import ACTING, TOKENS

pytestmark = pytest.mark.e2e


def test_a_compiled_client(system: Serving, compiled: Sequence[str], home: Path) -> None:
    asked = ("--address", system.address, "--max-tokens", "64", "--temperature", "0.8")
    expected = told_by_outrider(home, system, *asked[2:], "--seed", str(2**64 - 1), PROMPT)
    finished = run_example(home, compiled, *asked, "--seed", str(2**64 - 1), PROMPT)
    assert (finished.returncode, finished.stdout) == (0, expected["text"])
    assert re.fullmatch(rf"\n64 tokens, \d+\.\d tokens/s, seed {2**64 - 1}\n", finished.stderr), finished.stderr
    drawn = run_example(home, compiled, *asked, PROMPT)
    assert 0 <= int(drawn.stderr.rpartition(" ")[2]) < 2**53
    refused = run_example(home, compiled, "--address", system.address, "--max-tokens", "0", PROMPT)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert re.fullmatch(r".*INVALID_REQUEST.*: ask for at least one token\b.*\n", refused.stderr)
    misused = run_example(home, compiled, "--max-tokens", "many", PROMPT)
    assert (misused.returncode, misused.stdout) == (2, "")


async def test_a_compiled_client_in_a_terminal(wild: str, compiled: Sequence[str], home: Path) -> None:
    finished = await asyncio.to_thread(run_in_terminal, home, [*compiled, "--address", wild, PROMPT])
    assert finished.returncode == 0
    assert not set(finished.stdout) & set(ACTING) - {"\r"}
    piped = await asyncio.to_thread(run_example, home, compiled, "--address", wild, PROMPT)
    assert piped.stdout == "".join(TOKENS)
