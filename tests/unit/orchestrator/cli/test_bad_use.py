"""Bad use of the command line: one sentence, exit code 2, no traceback. Nothing here gets as far as a process."""

import sys
from pathlib import Path

import pytest

from orchestrator.cli.texts import MOST_BYTES
from tests.unit.orchestrator.cli.running import run


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A file that would be served if it came to that."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param([], "Missing command", id="no command"),
        pytest.param(["fly"], "No such command 'fly'", id="unknown command"),
        pytest.param(["generate"], "give one of them: a PROMPT", id="no prompt"),
        pytest.param(["generate", "a", "--file", "b"], "give one of them: a PROMPT", id="a prompt and a file"),
        pytest.param(["generate", "--file", "no/such"], "cannot read the prompt no/such: No such file", id="no file"),
        pytest.param(["generate", "--file", "."], "cannot read the prompt .: Is a directory", id="a folder as prompt"),
        pytest.param(["generate", "--file", sys.executable], "the prompt is not valid UTF-8", id="a program as prompt"),
        pytest.param(["generate", "--file", ""], "--file is empty: give it a value", id="empty file name"),
        pytest.param(
            ["generate", "a", "--prediction", "no/such"],
            "cannot read the prediction no/such: No such file",
            id="no prediction",
        ),
        pytest.param(
            ["generate", "a", "--prediction", sys.executable],
            "the prediction is not valid UTF-8",
            id="a program as prediction",
        ),
        pytest.param(
            ["generate", "a", "--prediction", "."],
            "cannot read the prediction .: Is a directory",
            id="a folder expected",
        ),
        pytest.param(
            ["generate", "a", "--prediction", ""], "--prediction is empty: give it a value", id="no file name"
        ),
        pytest.param(["generate", "a", "--answer-by", ""], "--answer-by is empty", id="answered by nobody"),
        pytest.param(["chat", "--answer-by", "\udcff"], "--answer-by is not valid UTF-8", id="answered by no text"),
        *(
            pytest.param(
                [*command, "--address", "127.0.0.1:1", "--answer-by", "draft", *flags],
                "nobody drafts for the draft model: with --answer-by draft leave out",
                id=f"a drafted draft {command[0]} {flags[0]} {flags[1]}",
            )
            for command in (["generate", "a"], ["chat"])
            for flags in (["--speculation", "3"], ["--drafter", "ngram"], ["--drafter", "remote"])
        ),
        pytest.param(
            ["generate", "a", "--address", "127.0.0.1:1", "--answer-by", "draft", "--prediction", __file__],
            "nobody drafts for the draft model",
            id="an expected draft",
        ),
        pytest.param(["generate", "a", "--no-such-flag"], "No such option: --no-such-flag", id="unknown flag"),
        pytest.param(["generate", "a", "b"], "unexpected extra argument", id="two prompts"),
        pytest.param(["generate", "a", "--max-tokens", "many"], "'--max-tokens'", id="no number"),
        pytest.param(["generate", "a", "--seed", "-1"], "'--seed'", id="negative seed"),
        pytest.param(["generate", "a", "--seed", str(2**64)], "seed", id="seed of 65 bits"),
        pytest.param(["generate", "a", "--max-tokens", str(2**31)], "max-tokens", id="too many tokens"),
        pytest.param(["generate", "a", "--speculation", "65"], "or a number up to 64, not '65'", id="a long draft"),
        pytest.param(["generate", "a", "--min-p", "1"], "--min-p is from 0, below 1, not 1.0", id="min-p of the best"),
        pytest.param(["chat", "--top-p", "0"], "--top-p is above 0, up to 1, not 0.0", id="top-p of nothing"),
        pytest.param(["chat", "--temperature", "100.5"], "--temperature is 0 to 100, not 100.5", id="too hot"),
        pytest.param(
            ["generate", "a", "--speculation", "some"], "--speculation is auto, off or a number", id="speculation"
        ),
        pytest.param(["generate", "a", "--max-tokens", "0"], "--max-tokens is at least 1, or -1", id="no tokens"),
        pytest.param(["chat", "--max-tokens", "0"], "--max-tokens is at least 1, or -1", id="no tokens of an answer"),
        pytest.param(["generate", "a", "--max-tokens", "-2"], "max-tokens", id="less than all tokens"),
        pytest.param(["generate", "a", "--top-k", "-1"], "--top-k", id="negative top-k"),
        pytest.param(["generate", "a", "--top-p", "1.1"], "--top-p is above 0, up to 1, not 1.1", id="top-p"),
        pytest.param(["chat", "--min-p", "nan"], "--min-p is from 0, below 1, not nan", id="min-p"),
        pytest.param(
            ["chat", "--repetition-penalty", "0"], "--repetition-penalty is 0.01 to 100, not 0.0", id="repetition"
        ),
        pytest.param(
            ["generate", "a", "--presence-penalty", "inf"], "--presence-penalty is -100 to 100, not inf", id="presence"
        ),
        pytest.param(
            ["generate", "a", "--frequency-penalty", "-101"], "--frequency-penalty is -100 to 100", id="frequency"
        ),
        pytest.param(
            ["chat", "--speculation", "some"], "--speculation is auto, off or a number", id="chat's speculation"
        ),
        pytest.param(["chat", "--seed", "-1"], "'--seed'", id="chat's seed"),
        pytest.param(["chat", "--system", ""], "--system is empty", id="chat with nothing to be told"),
        pytest.param(["costs"], "Missing option '--out'", id="costs nowhere"),
        pytest.param(["costs", "--out", ""], "--out is empty: give it a value", id="costs in an empty name"),
        pytest.param(["costs", "--out", "no/such.json"], "there is no folder no", id="costs in no folder"),
        pytest.param(["costs", "--out", sys.executable], "is no file of costs", id="costs in place of a program"),
        pytest.param(["costs", "--out", "."], "cannot read costs .: Is a directory", id="costs in a folder"),
        pytest.param(["costs", "--out", "a.json", "--budget", "0"], "'--budget'", id="costs in no time"),
        pytest.param(["costs", "--out", "a.json", "--slots", "0"], "'--slots'", id="costs of no sessions"),
        pytest.param(["costs", "--out", "a.json", "--context", "1"], "'--context'", id="costs without context"),
        pytest.param(
            ["costs", "--out", "a.json", "--target", "no"], "there is no model file no", id="costs of no model"
        ),
        pytest.param(["costs", "--out", "a.json", "--draft", "b"], "needs --target", id="costs of a draft alone"),
        pytest.param(["chat", "--stop", ""], "--stop is empty: give it a text", id="nothing to stop at"),
        pytest.param(["generate", "a", "--stop", "\udcff"], "--stop is not valid UTF-8", id="a stop that is no text"),
        pytest.param(["chat", "--system", "\udcff"], "--system is not valid UTF-8", id="told what is no text"),
        pytest.param(["generate", "a", "--stop-token", "-1"], "'--stop-token'", id="negative stop token"),
        pytest.param(["chat", "--stop-token", str(2**32)], "'--stop-token'", id="stop token of 33 bits"),
        pytest.param(["chat", "--template-name", ""], "--template-name is empty", id="a template without a name"),
        pytest.param(["chat", "--template-variable", "a"], "is NAME=VALUE, not 'a'", id="a variable without a value"),
        pytest.param(["chat", "--template-variable", "=1"], "is NAME=VALUE, not '=1'", id="a value without a variable"),
        pytest.param(["chat", "--template-variable", "a=\udcff"], "is not valid UTF-8", id="a value that is no text"),
        pytest.param(
            ["chat", "--template-variable", 'a="\\ud800"'],
            "holds what cannot be sent",
            id="half a character in a value",
        ),
        pytest.param(
            ["chat", "--template-variable", f"a={'[' * 500}{']' * 500}"], "holds what cannot be sent", id="a deep value"
        ),
        pytest.param(["generate", "a", "--template-variable", "a=1"], "No such option", id="a variable without a chat"),
        pytest.param(["serve", "--slots", "0"], "'--slots'", id="no slots"),
        pytest.param(["serve", "--context", "31"], "'--context'", id="hardly any context"),
        pytest.param(["serve", "--threads", "-1"], "'--threads'", id="negative threads"),
        pytest.param(["serve", "--gpu-layers", "-2"], "'--gpu-layers'", id="negative layers"),
        pytest.param(["serve", "--gpu-layers", str(2**31)], "'--gpu-layers'", id="too many layers"),
        pytest.param(["generate", "a", "--temperature", "nan"], "--temperature is 0 to 100, not nan", id="nan"),
        pytest.param(["generate", "a", "--temperature", "-1"], "--temperature is 0 to 100, not -1", id="negative"),
        pytest.param(["chat", "--temperature", "inf"], "--temperature is 0 to 100, not inf", id="infinite"),
        pytest.param(
            ["generate", "a", "--address", "127.0.0.1:1", "--target", "x"],
            "--target is for a stack of our own",
            id="both",
        ),
        pytest.param(["chat", "--address", "127.0.0.1:1", "--exact", "on"], "--exact is for a stack", id="exact there"),
        pytest.param(["generate", "a", "--peer-tls"], "name its --address", id="TLS to nobody"),
        pytest.param(["status", "--peer-ca", "x"], "--peer-ca and --peer-cert need --peer-tls", id="no TLS"),
        pytest.param(["status", "--peer-tls", "--peer-key", "x"], "needed together", id="a key alone"),
        pytest.param(
            ["status", "--peer-tls", "--peer-ca", "no/such"], "--peer-ca no/such cannot be", id="no such file"
        ),
        pytest.param(["chat", "--peer-tls", "--peer-ca", ""], "--peer-ca is empty", id="empty name"),
        pytest.param(["chat", "--peer-api-key-file", "k"], "--peer-api-key-file is for a", id="a key to nobody"),
        pytest.param(
            ["status", "--peer-api-key-file", "no/such"], "--peer-api-key-file no/such cannot be", id="no key"
        ),
        pytest.param(["status", "--peer-api-key-file="], "--peer-api-key-file is empty", id="key in an empty name"),
        pytest.param(["serve", "--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in", id="open to anyone"),
        pytest.param(["serve", "--host", "::", "--port", "1"], "--host :: lets other machines in", id="to IPv6"),
        pytest.param(["serve", "--http", "0.0.0.0:0"], "--http 0.0.0.0 lets other machines in", id="HTTP to anyone"),
        pytest.param(["serve", "--api-key-file", "no/such"], "--api-key-file no/such cannot be read", id="no keys"),
        pytest.param(["serve", "--api-key-file", ""], "--api-key-file is empty", id="keys in an empty name"),
        pytest.param(["generate", "\udcff"], "UTF-8", id="a prompt that is no text"),
        pytest.param(["generate", "a", "--address", "h:99999"], "--address is 'h:99999': ", id="no such port"),
        pytest.param(["chat", "--address", "http://h:1"], "a port from 1 to 65535", id="an address that is a URL"),
        pytest.param(["status", "--address", "h:-1"], "a port from 1 to 65535", id="status at no port"),
        pytest.param(["status", "--address", "\udcff:1"], "UTF-8", id="an address that is no text"),
        pytest.param(
            ["generate", "a", "--target", "no/such.gguf"], "there is no model file no/such.gguf", id="no target"
        ),
        pytest.param(["generate", "a", "--target", "."], "there is no model file", id="a folder"),
        pytest.param(["generate", "a", "--draft", "x.gguf"], "--draft (or DRAFT_MODEL_PATH) needs", id="a draft alone"),
        pytest.param(["generate", "a", "--target", "hf:owner/file.gguf"], "is no hf:owner/repo/", id="no file of hf"),
        pytest.param(["generate", ""], "the prompt is empty: give it a text", id="empty prompt"),
        pytest.param(["serve", "--target", ""], "--target is empty: give it a value", id="empty target"),
        pytest.param(["generate", "a", "--draft="], "--draft is empty: give it a value", id="empty draft"),
        pytest.param(["serve", "--host", ""], "--host is empty: give it a value", id="empty host"),
        pytest.param(["serve", "--log-level", ""], "--log-level is empty: give it a value", id="empty log level"),
        pytest.param(["generate", "a", "--address", ""], "--address is empty: give it a value", id="empty address"),
        pytest.param(["chat", "--address", ""], "--address is empty: give it a value", id="chat with an empty address"),
        pytest.param(["status", "--address", ""], "--address is empty: give it a value", id="status of nobody"),
        pytest.param(["serve", "--drafter", ""], "'' is not one of 'auto'", id="empty drafter"),
        pytest.param(["pair", "", "draft.gguf"], "target is empty: give it a value", id="pair without a target"),
        pytest.param(["pair", "target.gguf", ""], "draft is empty: give it a value", id="pair without a draft"),
        pytest.param(["serve", "--target", "x" * 300], "cannot read model x", id="no name of a file"),
        pytest.param(["pair", "x" * 300, "y"], "cannot read model x", id="pair with no name of a file"),
        pytest.param(["serve", "--drafter", "me"], "'me' is not one of 'auto'", id="drafter"),
        pytest.param(
            ["serve", "--target", "no/such.gguf"], "there is no model file no/such.gguf", id="serve no target"
        ),
        pytest.param(["serve", "--port", "70000"], "'--port'", id="port too high"),
        pytest.param(["serve", "--port", "-1"], "'--port'", id="port negative"),
        pytest.param(["status", "--no-such-flag"], "No such option", id="status with an unknown flag"),
        pytest.param(
            ["pair", "no/target.gguf", "no/draft.gguf"], "there is no model file no/target.gguf", id="no pair"
        ),
    ],
)
def test_bad_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert run(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("outrider: ")
    assert expected in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["generate", "a", "--draft", "."], "there is no model file .", id="a folder"),
        pytest.param(["generate", "a", "--draft", "x" * 300], "cannot read model x", id="no name of a file"),
        pytest.param(["generate", "a", "--draft", "hf:"], "hf: is no hf:owner/repo/", id="no draft of hf"),
        pytest.param(["generate", "a", "--exact", "maybe"], "'maybe' is not one of 'auto', 'on', 'off'", id="exact"),
        pytest.param(["serve", "--exact", "maybe"], "'maybe' is not one of 'auto', 'on', 'off'", id="serve exact"),
        pytest.param(["generate", "a", "--answer-by", "draft"], "needs a draft model: name one", id="no draft alone"),
        pytest.param(["chat", "--answer-by", "draft"], "needs a draft model: name one", id="a chat with no draft"),
    ],
)
def test_bad_use_with_a_target(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str,
    arguments: list[str],
    expected: str,
) -> None:
    assert run(monkeypatch, *arguments, "--target", model) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("outrider: ")
    assert expected in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("flags", [["--prediction", "/dev/zero", "a"], ["--file", "/dev/zero"]])
def test_what_is_too_large_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert run(monkeypatch, "generate", *flags) == 2
    assert capsys.readouterr().err.endswith(f"has more than the {MOST_BYTES} bytes that a request may have\n")


def test_prompt_and_prediction_are_too_large_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    half = tmp_path / "half.txt"
    half.write_bytes(b"a" * (MOST_BYTES // 2))
    assert run(monkeypatch, "generate", "--file", str(half), "--prediction", str(half)) == 2
    assert f"and a request may have {MOST_BYTES}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SPECULATION_DEPTH", "deep", "SPECULATION_DEPTH is 'deep': input should be a valid integer"),
        ("SPECULATION_DEPTH", "-1", "SPECULATION_DEPTH is '-1': input should be greater than or equal to 0"),
        ("ENABLE_SPECULATIVE", "maybe", "ENABLE_SPECULATIVE is 'maybe': input should be 'auto', "),
        ("OUTRIDER_ORCHESTRATOR_DRAFTER", "me", "OUTRIDER_ORCHESTRATOR_DRAFTER is 'me'"),
        ("OUTRIDER_ORCHESTRATOR_DRAFTERS", "none", "OUTRIDER_ORCHESTRATOR_DRAFTERS names no setting"),
        ("OUTRIDER_TARGET_EXACT", "maybe", "'maybe' is not one of 'auto', 'on', 'off'"),
        ("TARGET_MODEL_PATH", "no/such.gguf", "there is no model file no/such.gguf"),
        ("DRAFT_MODEL_PATH", "x.gguf", "--draft (or DRAFT_MODEL_PATH) needs --target"),
    ],
)
@pytest.mark.parametrize("command", [["serve"], ["generate", "a"], ["chat"]])
def test_bad_values_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    name: str,
    value: str,
    expected: str,
) -> None:
    monkeypatch.setenv(name, value)
    assert run(monkeypatch, *command) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("outrider: ")
    assert expected in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "name", "expected"),
    [
        (["generate", "a"], "OUTRIDER_ORCHESTRATOR_TLS_CERT", "which is for `outrider serve` only: unset it"),
        (["chat"], "OUTRIDER_ORCHESTRATOR_TLS_CERT", "which is for `outrider serve` only: unset it"),
        (["generate", "a"], "OUTRIDER_TARGET_TLS_CERT", "OUTRIDER_ORCHESTRATOR_PEER_TLS and _PEER_CA must be set too"),
        (["serve"], "OUTRIDER_DRAFT_TLS_CERT", "OUTRIDER_ORCHESTRATOR_PEER_TLS and _PEER_CA must be set too"),
        (["pair", "a", "b"], "OUTRIDER_DRAFT_TLS_CERT", "OUTRIDER_ORCHESTRATOR_PEER_TLS and _PEER_CA must be set too"),
        (["chat"], "OUTRIDER_ORCHESTRATOR_API_KEY_FILE", "which is for `outrider serve` only: unset it"),
        (["serve"], "OUTRIDER_TARGET_API_KEY_FILE", "OUTRIDER_ORCHESTRATOR_PEER_API_KEY_FILE must be set too"),
        (["pair", "a", "b"], "OUTRIDER_DRAFT_API_KEY_FILE", "OUTRIDER_ORCHESTRATOR_PEER_API_KEY_FILE must be set too"),
    ],
)
def test_tls_and_keys_of_the_environment_with_which_processes_could_not_call_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], name: str, expected: str
) -> None:
    monkeypatch.setenv(name, "server.pem")
    assert run(monkeypatch, *command) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"outrider: {name} is set, ")
    assert printed.err.endswith(f"{expected}\n")


def test_a_port_in_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OUTRIDER_ORCHESTRATOR_PORT", "70000")
    assert run(monkeypatch, "serve") == 2
    assert "OUTRIDER_ORCHESTRATOR_PORT" in capsys.readouterr().err
