"""`outrider generate`, with processes of its own and with a system that runs."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Pair
from tests.e2e.programs import Serving, command, environment, run
from tests.proxy import VARIABLES, proxying
from tests.waiting import PATIENCE_S, eventually

pytestmark = pytest.mark.e2e

ASKED = ("--max-tokens", "24", "def main(")


def _json(home: Path, system: Serving, *arguments: str) -> dict[str, Any]:
    finished = run(home, "generate", "--address", system.address, "--json", *arguments)
    assert (finished.returncode, finished.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(finished.stdout)
    return answer


def test_a_system_of_its_own(pair: Pair, system: Serving, home: Path) -> None:
    finished = run(home, "generate", *pair.flags, "--exact", "on", *ASKED)
    assert finished.returncode == 0
    assert finished.stdout == "def main(" + _json(home, system, *ASKED)["text"] + "\n"
    assert "\x1b" not in finished.stdout + finished.stderr
    assert "24 tokens" in finished.stderr
    assert "draft tokens accepted" in finished.stderr


def test_a_proxy_in_the_environment_is_not_for_us(pair: Pair, home: Path) -> None:
    with proxying() as proxy:
        proxies = dict.fromkeys(VARIABLES, proxy.url)
        finished = run(home, "generate", *pair.flags, "--exact", "off", *ASKED, **proxies)
        assert (finished.returncode, proxy.requests) == (0, []), finished.stderr
        assert "draft tokens accepted" in finished.stderr


def test_the_bundled_pair_is_taken_where_none_is_named(home: Path) -> None:
    drafted, plain = (
        run(home, "generate", "--exact", "on", "--json", "--speculation", number, *ASKED) for number in ("4", "off")
    )
    assert (drafted.returncode, plain.returncode) == (0, 0)
    answers = [json.loads(each.stdout) for each in (drafted, plain)]
    assert answers[0]["text"] == answers[1]["text"]
    assert [each["exact"] for each in answers] == [True, True]
    assert answers[0]["speculation"]["num_accepted_tokens"] > 0


def test_the_draft_model_by_itself(pair: Pair, system: Serving, home: Path) -> None:
    answer = _json(home, system, "--answer-by", "draft", *ASKED)
    for name in ("draft", "outrider-draft"):
        alone = run(home, "generate", *pair.flags, "--answer-by", name, *ASKED)
        assert alone.returncode == 0, alone.stderr
        assert alone.stdout == "def main(" + answer["text"] + "\n"
    assert not answer["exact"]
    assert answer["text"] != _json(home, system, *ASKED)["text"]
    unknown = run(home, "generate", "--address", system.address, "--answer-by", "gpt-4", *ASKED)
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("outrider: no model here is called 'gpt-4': name one of 'target', 'draft', ")


def test_a_draft_that_is_not_there(pair: Pair, system: Serving, home: Path) -> None:
    """The text is the same, and one line says why it is slower."""
    models = {"TARGET_MODEL_PATH": str(pair.target), "DRAFT_MODEL_PATH": "no/such.gguf"}
    finished = run(home, "generate", "--exact", "on", *ASKED, **models)
    assert finished.returncode == 0
    assert finished.stdout == "def main(" + _json(home, system, *ASKED)["text"] + "\n"
    assert finished.stderr.startswith("outrider: there is no draft model no/such.gguf: going on without one\n")
    assert finished.stderr.count("no/such.gguf") == 1


def test_json(system: Serving, home: Path) -> None:
    answer = _json(home, system, "--speculation", "3", "--seed", "7", *ASKED)
    assert answer["text"]
    assert answer["finish_reason"] == "FINISH_REASON_MAX_TOKENS"
    assert answer["usage"]["num_generated_tokens"] == 24
    assert answer["seed"] == "7"
    assert answer["speculation"]["num_draft_tokens"] > answer["speculation"]["num_accepted_tokens"] > 0
    plain = _json(home, system, "--speculation", "off", *ASKED)
    assert plain["text"] == answer["text"]
    assert plain["speculation"]["num_draft_tokens"] == 0
    assert [each["drafter"] for each in answer["speculation"]["drafters"]] == ["DRAFTER_REMOTE"]
    looked_up = _json(home, system, "--drafter", "ngram", *ASKED)
    assert looked_up["text"] == answer["text"]
    expected = home / "expected.txt"
    expected.write_text(answer["text"])
    predicted = _json(home, system, "--prediction", str(expected), "--drafter", "prediction", *ASKED)
    assert predicted["text"] == answer["text"]
    assert [each["drafter"] for each in predicted["speculation"]["drafters"]] == ["DRAFTER_PREDICTION"]


def test_a_pipe_gets_exactly_the_text(system: Serving, home: Path) -> None:
    """With tabs, carriage returns, and whatever the model says at a high temperature."""
    prompt = "if x:\r\n\treturn\t[bold]\n"
    asked = ("--temperature", "3", "--seed", "3", "--max-tokens", "200", prompt)
    finished = run(home, "generate", "--address", system.address, *asked)
    assert finished.returncode == 0
    assert finished.stdout == prompt + _json(home, system, *asked)["text"] + "\n"


def test_a_reader_that_has_seen_enough(system: Serving, home: Path) -> None:
    process = subprocess.Popen(
        command("generate", "--address", system.address, "--max-tokens", "1500", "def main("),
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(9) == b"def main("
    process.stdout.close()
    process.wait(PATIENCE_S)
    assert all(line.startswith(b"outrider: waiting for ") for line in process.stderr)
    process.stderr.close()


def test_a_request_that_is_refused(system: Serving, home: Path) -> None:
    finished = run(home, "generate", "--address", system.address, "--speculation", "17", "a")
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith("outrider: 1 to 16 draft tokens can be fixed, not 17")
    assert finished.stderr.count("\n") == 1


def test_status(system: Serving, home: Path) -> None:
    def status() -> dict[str, Any]:
        finished = run(home, "status", "--address", system.address, "--json")
        assert finished.returncode == 0
        answer: dict[str, Any] = json.loads(finished.stdout)
        return answer

    def is_asked() -> bool:
        _json(home, system, *ASKED)
        return bool(status()["draft"]["is_available"])

    # A draft that the machine has held up for seconds is away until a request has found it again.
    eventually(is_asked)
    now = status()
    assert now["target"]["is_available"]
    assert now["target"]["model"]["name"] == "outrider-target"
    assert now["speculation"]["num_cycles"] > 0
    table = run(home, "status", "--address", system.address)
    assert "outrider-target" in table.stdout
    assert "\x1b" not in table.stdout
