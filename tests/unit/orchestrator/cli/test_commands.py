"""Bad use of the command line: one sentence, exit code 2, no traceback. Nothing here gets as far as a process."""

import errno
import io
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict
from rich.console import Console

from orchestrator.cli import commands as cli
from orchestrator.cli.asking import ask
from orchestrator.cli.stack import StackOptions
from orchestrator.cli.stdin import Lines
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2, generation_pb2
from services.draft.settings import DraftSettings
from services.frame.program.settings import parse_settings
from services.frame.program.startup import StartupError
from services.target.settings import TargetSettings
from tests.ports import free_port


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A file that would be served if it came to that."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return str(path)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `outrider` in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["outrider", *arguments])
    with pytest.raises(SystemExit) as info:
        cli.main()
    return int(info.value.code or 0)


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
        pytest.param(["generate", "a", "--no-such-flag"], "No such option: --no-such-flag", id="unknown flag"),
        pytest.param(["generate", "a", "b"], "unexpected extra argument", id="two prompts"),
        pytest.param(["generate", "a", "--max-tokens", "many"], "'--max-tokens'", id="no number"),
        pytest.param(["generate", "a", "--seed", "-1"], "'--seed'", id="negative seed"),
        pytest.param(["generate", "a", "--seed", str(2**64)], "seed", id="seed of 65 bits"),
        pytest.param(["generate", "a", "--max-tokens", str(2**31)], "max-tokens", id="too many tokens"),
        pytest.param(["generate", "a", "--speculation", str(2**32)], "speculation", id="too many draft tokens"),
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
        pytest.param(["generate", "a", "--temperature", "nan"], "--temperature is 0 or more, not nan", id="nan"),
        pytest.param(["generate", "a", "--temperature", "-1"], "--temperature is 0 or more, not -1", id="negative"),
        pytest.param(["chat", "--temperature", "inf"], "--temperature is 0 or more, not inf", id="infinite"),
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
    ],
)
def test_tls_of_the_environment_with_which_processes_could_not_call_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str], name: str, expected: str
) -> None:
    monkeypatch.setenv(name, "server.pem")
    assert run(monkeypatch, *command) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"outrider: {name} is set, ")
    assert printed.err.endswith(f"{expected}\n")


EMPTY = (
    "OUTRIDER_TARGET_MODEL",
    "OUTRIDER_DRAFT_MODEL",
    "TARGET_MODEL_PATH",
    "DRAFT_MODEL_PATH",
    "ENABLE_SPECULATIVE",
    "SPECULATION_DEPTH",
    "OUTRIDER_TARGET_EXACT",
    *(f"OUTRIDER_ORCHESTRATOR_{name.upper()}" for name in OrchestratorSettings.model_fields),
)


def test_variables_without_a_value_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[StackOptions] = []

    async def note(asked: StackOptions) -> None:
        served.append(asked)

    monkeypatch.setattr(cli, "_serve", note)
    assert run(monkeypatch, "serve") == 0
    for name in EMPTY:
        monkeypatch.setenv(name, "")
    assert run(monkeypatch, "serve") == 0
    assert served[0] == served[1]


def asked_for(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> generation_pb2.GenerateRequest:
    """What an orchestrator is asked for by a command."""
    asked: list[generation_pb2.GenerateRequest] = []

    async def note(
        address: str, tls: object, options: object, request: generation_pb2.GenerateRequest, *_: object
    ) -> None:
        asked.append(request)

    monkeypatch.setattr(cli, {"generate": "stream_text", "chat": "hold_chat"}[arguments[0]], note)
    assert run(monkeypatch, *arguments, "--address", "127.0.0.1:1") == 0
    return asked[0]


SAMPLING = {
    "temperature": 0.5,
    "top_k": 40,
    "top_p": 0.75,
    "min_p": 0.125,
    "repetition_penalty": 1.25,
    "presence_penalty": -0.5,
    "frequency_penalty": 2.0,
}


@pytest.mark.parametrize("command", [["generate", "a"], ["chat"]])
def test_what_is_said_of_sampling_is_asked_for(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SAMPLING.items()]
    more = ["--seed", "7", "--speculation", "3", "--max-tokens", "-1"]
    request = asked_for(monkeypatch, *command, *flags, *more)
    assert request.sampling == common_pb2.Sampling(**SAMPLING)
    assert (request.seed, request.speculation.num_draft_tokens, request.max_tokens) == (7, 3, 2**31 - 1)


@pytest.mark.parametrize("command", [["generate", "a"], ["chat"]])
def test_what_is_not_said_is_left_open(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    request = asked_for(monkeypatch, *command)
    assert {field.name for field, _ in request.sampling.ListFields()} <= {"temperature"}
    assert not request.HasField("seed")
    assert not request.stop


@pytest.mark.parametrize("command", [["generate", "a"], ["chat"]])
def test_where_to_stop(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    flags = ["--stop", "\n\n", "--stop", "b", "--stop-token", "0", "--stop-token", str(2**32 - 1)]
    request = asked_for(monkeypatch, *command, *flags)
    assert (list(request.stop), list(request.stop_tokens)) == (["\n\n", "b"], [0, 2**32 - 1])


def test_what_the_model_of_a_chat_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (message,) = asked_for(monkeypatch, "chat", "--system", "be brief").chat.messages
    assert (message.role, message.content) == ("system", "be brief")


VARIABLES = {
    "enable_thinking=false": False,
    "num=3": 3.0,
    "effort=high": "high",
    'effort="high"': "high",
    'tools=[{"name": "a=b"}]': [{"name": "a=b"}],
    "none=null": None,
    "empty=": "",
    "number=NaN": "NaN",
    "open=[1,": "[1,",
}


@pytest.mark.parametrize("given", VARIABLES)
def test_what_a_template_is_given(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    flags = ["--template-name", "tool_use", "--template-variable", "a=1", "--template-variable", given]
    chat = asked_for(monkeypatch, "chat", *flags).chat
    assert chat.template_name == "tool_use"
    assert MessageToDict(chat.template_variables) == {"a": 1.0, given.partition("=")[0]: VARIABLES[given]}


@pytest.mark.parametrize(
    ("content", "prompt"),
    [(b"def f(\n", "def f("), (b"a\n\n", "a\n"), (b"a\r\n", "a"), (b" a", " a"), ("\N{BULLET}".encode(), "\N{BULLET}")],
)
def test_a_prompt_of_a_file_or_of_stdin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, prompt: str
) -> None:
    path = tmp_path / "prompt.txt"
    path.write_bytes(content)
    assert asked_for(monkeypatch, "generate", "--file", str(path)).text == prompt
    for source in (["-"], ["--file", "-"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert asked_for(monkeypatch, "generate", *source).text == prompt


def test_what_is_served_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[StackOptions] = []

    async def note(asked: StackOptions) -> None:
        served.append(asked)

    monkeypatch.setattr(cli, "_serve", note)
    flags = ["--slots", "3", "--context", "512", "--threads", "1", "--gpu-layers", "-1"]
    assert run(monkeypatch, "serve", *flags) == run(monkeypatch, "serve") == 0
    alike = ("--slots=3", "--context=512", "--threads=1", "--gpu-layers=-1")
    assert [tuple(each.target_flags) for each in served] == [("--exact", "auto", *alike), ("--exact", "auto")]
    assert [tuple(each.draft_flags) for each in served] == [alike, ()]
    # As the processes read them.
    for settings in (TargetSettings, DraftSettings):
        read = parse_settings(settings, ["--model", "x", *alike])
        assert (read.slots, read.context, read.threads, read.gpu_layers) == (3, 512, 1, -1)


def test_a_port_in_the_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OUTRIDER_ORCHESTRATOR_PORT", "70000")
    assert run(monkeypatch, "serve") == 2
    assert "OUTRIDER_ORCHESTRATOR_PORT" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["status"], ["generate", "a"]])
def test_an_orchestrator_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Nothing wrong with the use: a failure, in one sentence too."""
    address = f"127.0.0.1:{free_port()}"
    assert run(monkeypatch, *command, "--address", address) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    advice = "start one with `outrider serve`, or name another --address"
    assert printed.err.startswith(f"outrider: no orchestrator answers at {address} (")
    assert "Connection refused" in printed.err
    assert printed.err.endswith(f"): {advice}\n")
    assert printed.err.count("\n") == 1


def test_models_in_the_environment_are_for_a_stack_of_our_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TARGET_MODEL_PATH", "no/such.gguf")
    assert run(monkeypatch, "generate", "a", "--address", f"127.0.0.1:{free_port()}") == 1
    assert "no orchestrator answers" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_system_without_room_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "_status", fail)
    assert run(monkeypatch, "status") == 2
    told = str(error) or "out of memory"
    assert capsys.readouterr().err == (
        f"outrider: the system gives no more memory ({told}): raise ulimit -v and -u, or the container's limits\n"
    )


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"outrider {version('outrider')}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["serve", "--help"]])
def test_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(monkeypatch, *arguments) == 0
    assert "Usage: outrider" in capsys.readouterr().out


class Broken(Lines):
    """A stdin that cannot be read, as a terminal that is gone."""

    async def next(self) -> str:
        raise OSError(errno.EIO, "Input/output error")


async def test_a_stdin_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as null:
        monkeypatch.setattr(sys, "stdin", null)
        with pytest.raises(StartupError, match="cannot read stdin: Input/output error"):
            await ask(Console(), Broken())
