from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field

from services.frame.program.settings import FileName, PeerSettings, ServerSettings, load_settings, parse_settings
from services.frame.program.startup import StartupError
from services.frame.program.version import VERSION


class EchoSettings(ServerSettings, PeerSettings, env_prefix="OUTRIDER_ECHO_"):
    """Answers with what it was asked."""

    program: ClassVar[str] = "python -m echo"
    familiar_names: ClassVar[Mapping[str, str]] = {"ECHO_PORT": "port"}

    port: int = Field(50000, ge=0, le=65535, description="port to listen on")
    model: FileName = Field(Path("m.gguf"), description="model file")
    is_loud: bool = Field(False, description="answer in capitals")


class NeedySettings(ServerSettings, env_prefix="OUTRIDER_NEEDY_"):
    model: FileName = Field(description="model file")


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Parse settings that must be refused; return the sentence, having checked that there is nothing else."""
    with pytest.raises(SystemExit) as ended:
        parse_settings(EchoSettings, argv)
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("python -m echo: ")
    assert output.err.count("\n") == 1
    return output.err.removeprefix("python -m echo: ").rstrip("\n")


def test_defaults() -> None:
    settings = parse_settings(EchoSettings, [])
    assert (settings.host, settings.port, settings.log_format) == ("127.0.0.1", 50000, "text")
    assert settings.tls_cert is None


def test_the_environment_wins_over_defaults_and_flags_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_ECHO_PORT", "1234")
    monkeypatch.setenv("OUTRIDER_ECHO_LOG_LEVEL", "debug")
    settings = parse_settings(EchoSettings, ["--port", "0", "--is-loud"])
    assert (settings.port, settings.log_level, settings.is_loud) == (0, "debug", True)
    assert parse_settings(EchoSettings, ["--no-is-loud"]).port == 1234


def test_a_familiar_name_wins_over_the_default_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHO_PORT", "1234")
    assert parse_settings(EchoSettings, []).port == 1234
    assert load_settings(EchoSettings).port == 1234
    assert load_settings(NeedySettings, {"model": "m.gguf"}).port == 0, "it is a name of another program"
    monkeypatch.setenv("OUTRIDER_ECHO_PORT", "2345")
    assert parse_settings(EchoSettings, []).port == 2345
    assert parse_settings(EchoSettings, ["--port", "3456"]).port == 3456


def test_a_familiar_name_without_a_value_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECHO_PORT", "")
    assert parse_settings(EchoSettings, []).port == 50000


def test_no_variable_without_a_value_says_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose and Kubernetes pass on what is not set like that."""
    for name in EchoSettings.model_fields:
        monkeypatch.setenv(f"OUTRIDER_ECHO_{name.upper()}", "")
    monkeypatch.setenv("OUTRIDER_ECHO_NO_SUCH_SETTING", "")
    assert parse_settings(EchoSettings, []) == load_settings(EchoSettings) == EchoSettings.model_construct()
    monkeypatch.setenv("ECHO_PORT", "1234")
    assert parse_settings(EchoSettings, []).port == 1234
    assert parse_settings(EchoSettings, ["--port", "0"]).port == 0


def test_an_empty_variable_is_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_NEEDY_MODEL", "")
    with pytest.raises(StartupError, match=r"^--model is missing \(or OUTRIDER_NEEDY_MODEL in the environment\)$"):
        load_settings(NeedySettings)


def test_an_empty_flag_is_no_default(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OUTRIDER_ECHO_HOST", "0.0.0.0")
    assert refusal(capsys, "--host", "").startswith("--host is '': ")


def test_a_wrong_value_is_named_by_what_set_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECHO_PORT", "many")
    assert refusal(capsys).startswith("ECHO_PORT is 'many': ")
    monkeypatch.setenv("OUTRIDER_ECHO_PORT", "more")
    assert refusal(capsys).startswith("OUTRIDER_ECHO_PORT is 'more': ")
    assert refusal(capsys, "--port", "most").startswith("--port is 'most': ")


def test_every_field_has_a_flag_in_kebab_case() -> None:
    argv = ["--drain-timeout-s=2.5", "--max-message-bytes=1000000", "--trace-detail=request", "--log-format=json"]
    settings = parse_settings(EchoSettings, argv)
    assert (settings.drain_timeout_s, settings.max_message_bytes) == (2.5, 1_000_000)
    assert (settings.trace_detail, settings.log_format) == ("request", "json")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot 1; --help lists the flags"),
        # An abbreviation would change its meaning with the next flag that is added.
        (["--por", "1"], "unrecognized arguments: --por 1; --help lists the flags"),
        (["stray"], "unrecognized arguments: stray; --help lists the flags"),
        (["--port"], "argument --port: expected one argument; --help lists the flags"),
        (["--port", "65536"], "--port is '65536': input should be less than or equal to 65535"),
        (["--port=-1"], "--port is '-1': input should be greater than or equal to 0"),
        (["--log-format", "xml"], "--log-format is 'xml': input should be 'text' or 'json'"),
        (["--drain-timeout-s", "nan"], "--drain-timeout-s is 'nan': input should be a finite number"),
        (["--host", ""], "--host is '': string should have at least 1 character"),
        (["--model", ""], "--model is '': a file must be named"),
        (["--tls-cert", ""], "--tls-cert is '': a file must be named"),
        (["--peer-ca="], "--peer-ca is '': a file must be named"),
        (["--port", ""], "--port is '': input should be a valid integer, unable to parse string as an integer"),
        (["--log-level", ""], "--log-level is '': input should be 'debug', 'info', 'warning' or 'error'"),
        (["--tls-cert", "a.pem"], "--tls-cert and --tls-key are needed together"),
        (["--tls-client-ca", "a.pem"], "--tls-client-ca needs --tls-cert and --tls-key"),
        (["--peer-tls", "--peer-key", "a.pem"], "--peer-cert and --peer-key are needed together"),
        (["--peer-ca", "a.pem"], "--peer-ca and --peer-cert need --peer-tls"),
    ],
)
def test_a_wrong_flag_is_refused_with_one_sentence(
    capsys: pytest.CaptureFixture[str], argv: list[str], sentence: str
) -> None:
    assert refusal(capsys, *argv) == sentence


def test_several_wrong_values_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "--port", "x", "--log-level", "loud").endswith(" (and 1 more)")


def test_a_wrong_value_in_the_environment_is_named_by_its_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTRIDER_ECHO_PORT", "99999")
    assert refusal(capsys) == "OUTRIDER_ECHO_PORT is '99999': input should be less than or equal to 65535"
    assert refusal(capsys, "--port=99998").startswith("--port is '99998': ")


def test_an_unknown_variable_with_the_prefix_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTRIDER_ECHO_PROT", "1")
    sentence = "the environment variable OUTRIDER_ECHO_PROT names no setting: unset it, or see --help"
    assert refusal(capsys) == sentence


def test_variables_of_other_services_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_NEEDY_MODEL", "a.gguf")
    monkeypatch.setenv("PORT", "1")
    assert parse_settings(EchoSettings, []).port == 50000
    assert parse_settings(NeedySettings, []).model == Path("a.gguf")


def test_only_this_machine_is_served_unless_callers_are_known(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "127.0.0.2", "::1", "localhost", "Localhost", f"unix:{tmp_path}/socket"):
        assert ServerSettings(host=host).host == host
    files = {name: tmp_path / "file.pem" for name in ("tls_cert", "tls_key")}
    for host in ("0.0.0.0", "::", "10.0.0.1", "a-name", "127.1"):
        with pytest.raises(ValueError, match=f"--host {host} lets other machines in: name an --api-key-file"):
            ServerSettings(host=host, **files)
        ServerSettings(host=host, api_key_file=tmp_path / "keys.txt")
        ServerSettings(host=host, tls_client_ca=tmp_path / "ca.pem", **files)
        ServerSettings(host=host, allow_anyone=True)


def test_a_missing_setting_says_how_it_can_be_set() -> None:
    with pytest.raises(StartupError, match=r"^--model is missing \(or OUTRIDER_NEEDY_MODEL in the environment\)$"):
        load_settings(NeedySettings)


def test_help_tells_flags_defaults_and_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(EchoSettings, ["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for part in ("Answers with what it was asked.", "--port", "50000", "answer in capitals", "OUTRIDER_ECHO_LOG_LEVEL"):
        assert part in text


def test_a_service_says_its_version_and_asks_for_no_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(NeedySettings, ["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"outrider {VERSION}\n"


def test_values_from_a_program_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_ECHO_PORT", "1234")
    assert load_settings(EchoSettings, {"port": 7}).port == 7
    assert load_settings(EchoSettings).port == 1234


def test_values_from_a_program_are_checked_alike() -> None:
    with pytest.raises(StartupError, match="less than or equal to 65535"):
        load_settings(EchoSettings, {"port": 70000})
    with pytest.raises(StartupError, match="not permitted"):
        load_settings(EchoSettings, {"prot": 7})


def test_settings_do_not_change() -> None:
    settings = load_settings(EchoSettings)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
