"""What commands do once their use is right, up to the first process or call."""

import errno
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli import commands as cli
from orchestrator.cli.asking import ask
from orchestrator.cli.stdin import Lines
from orchestrator.settings import OrchestratorSettings
from orchestrator.stack.stack import StackOptions
from outrider.v1 import generation_pb2
from services.draft.settings import DraftSettings
from services.frame.program.settings import parse_settings
from services.frame.program.startup import StartupError
from services.frame.rpc.channel import Credentials
from services.target.settings import TargetSettings
from tests.ports import free_port
from tests.unit.orchestrator.cli.running import run

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

    async def note(asked: StackOptions, http: str) -> None:
        served.append(asked)

    monkeypatch.setattr(cli, "_serve", note)
    assert run(monkeypatch, "serve") == 0
    for name in EMPTY:
        monkeypatch.setenv(name, "")
    assert run(monkeypatch, "serve") == 0
    assert served[0] == served[1]


def test_what_is_served_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[StackOptions] = []

    async def note(asked: StackOptions, http: str) -> None:
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


def test_who_may_call_what_is_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served: list[StackOptions] = []

    async def note(asked: StackOptions, http: str) -> None:
        served.append(asked)

    monkeypatch.setattr(cli, "_serve", note)
    keys = tmp_path / "keys.txt"
    keys.write_text("alice: alice-0123456789")
    everywhere = ["serve", "--host", "0.0.0.0"]
    assert run(monkeypatch, *everywhere, "--api-key-file", str(keys)) == 0
    assert run(monkeypatch, *everywhere, "--allow-anyone") == 0
    monkeypatch.setenv("OUTRIDER_ORCHESTRATOR_API_KEY_FILE", str(keys))
    assert run(monkeypatch, *everywhere) == 0
    # As the process reads them.
    read = [parse_settings(OrchestratorSettings, [f"--host={each.host}", *each.orchestrator_flags]) for each in served]
    assert [(each.host, each.api_key_file, each.allow_anyone) for each in read] == [
        ("0.0.0.0", keys, False),
        ("0.0.0.0", keys, True),
        ("0.0.0.0", keys, False),
    ]


def test_a_host_of_the_environment_is_none_of_a_stack_of_our_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[StackOptions] = []

    async def note(address: str, credentials: object, options: StackOptions, *_: object) -> None:
        asked.append(options)

    monkeypatch.setattr(cli, "stream_text", note)
    monkeypatch.setenv("OUTRIDER_ORCHESTRATOR_HOST", "0.0.0.0")
    assert run(monkeypatch, "generate", "a") == 0
    assert asked[0].host == "127.0.0.1"
    assert run(monkeypatch, "serve") == 2
    assert "--host 0.0.0.0 lets other machines in: name an --api-key-file" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["status"], ["generate", "a"], ["chat"]])
def test_a_key_of_the_environment_is_shown_to_an_orchestrator_that_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    shown: list[str] = []

    async def note(address: str, credentials: Credentials, *_: object) -> generation_pb2.GetStatusResponse:
        shown.append(credentials.key() if credentials.key is not None else "")
        return generation_pb2.GetStatusResponse()

    for name in ("current_status", "stream_text", "hold_chat"):
        monkeypatch.setattr(cli, name, note)
    monkeypatch.setenv("OUTRIDER_API_KEY", "from-the-environment")
    named = ["--address", "127.0.0.1:1"]
    (tmp_path / "key.txt").write_text("from-a-file-0123")
    assert run(monkeypatch, *command, *named) == 0
    assert run(monkeypatch, *command, *named, "--peer-api-key-file", str(tmp_path / "key.txt")) == 0
    assert shown == ["from-the-environment", "from-a-file-0123"]
    if command != ["status"]:  # which always asks one that is named, by default the usual one
        assert run(monkeypatch, *command) == 0
        assert shown[-1] == ""
    monkeypatch.setenv("OUTRIDER_API_KEY", "a secret")
    assert run(monkeypatch, *command, *named) == 2
    told = capsys.readouterr().err
    assert "OUTRIDER_API_KEY has no key that a header takes" in told
    assert "secret" not in told


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

    monkeypatch.setattr(cli, "current_status", fail)
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
