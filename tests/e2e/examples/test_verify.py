"""The client that has drafts of its own and speaks to the target alone."""

import re
from pathlib import Path

import pytest

from tests.e2e.examples.running import PROMPT, VERIFY, end, run_example, start, status_of, told_by_outrider
from tests.e2e.programs import Finished, Serving

pytestmark = pytest.mark.e2e


def _counts(finished: Finished) -> list[int]:
    """Tokens, those of them that were drafted, passes, replays."""
    assert finished.returncode == 0, finished.stderr
    # What it waited for comes first.
    found = re.fullmatch(
        r"(?:waiting: .+\n)*\n(\d+) tokens, (\d+) of them drafted, in (\d+) passes, (\d+) replays\n", finished.stderr
    )
    assert found, finished.stderr
    return [int(number) for number in found.groups()]


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_drafts_of_its_own_do_not_change_the_text(system: Serving, home: Path, temperature: str) -> None:
    asked = ("--max-tokens", "200", "--temperature", temperature, "--seed", "11", "for i in for i in for i in")
    expected = told_by_outrider(home, system, *asked)
    finished = run_example(home, VERIFY, "--address", status_of(system).target.address, *asked)
    assert finished.stdout == expected["text"]
    num_tokens, num_accepted, num_passes, num_replays = _counts(finished)
    assert num_tokens == expected["usage"]["num_generated_tokens"] == num_accepted + num_passes
    assert (num_replays, num_accepted > 0) == (0, True)


def test_the_target_dies_under_a_client_of_its_own(system: Serving, home: Path) -> None:
    asked = ("--max-tokens", "400", PROMPT)
    expected = told_by_outrider(home, system, *asked)
    process = start(home, [*VERIFY, "--address", status_of(system).target.address, *asked])
    assert process.stdout is not None
    read = process.stdout.read(1)
    old_pid = system.kill("target")
    finished = end(process, read)
    assert finished.stdout == expected["text"]
    assert _counts(finished)[3] == 1
    system.restarted("target", old_pid)
