"""Settings from flags and the environment: the command line wins over the environment, which wins over the defaults.

An unknown flag, an unknown variable with the service's prefix or a value out of range is refused with one sentence.
A variable without a value is not set.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from services.frame.program.address import check_address, check_addresses, is_loopback, is_port
from services.frame.program.startup import Parser, StartupError, refuse
from services.frame.program.version import VERSION

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
TraceDetail = Literal["request", "cycle"]

DEFAULT_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_PROXY = re.compile(r"http://(\S+@)?([\w.-]+|\[[\da-fA-F:.]+\]):(?P<port>\d+)/?")


def _check_name(name: object) -> object:
    if name == "":
        raise ValueError("a file must be named")
    return name


FileName = Annotated[Path, BeforeValidator(_check_name)]
"""The path of a file. An empty one is refused: it would be the working directory."""

Address = Annotated[str, AfterValidator(check_address)]
"""The address of a server, or empty for none."""

Addresses = Annotated[str, AfterValidator(check_addresses)]
"""The addresses of several servers with commas between, or empty for none."""


class ProgramSettings(BaseSettings):
    """Settings of a program. Subclasses set `env_prefix` and `program`; every field is a flag in kebab case."""

    model_config = SettingsConfigDict(
        # Never empty: HOST and PORT of the environment are somebody else's.
        env_prefix="OUTRIDER_SERVER_",
        frozen=True,
        extra="forbid",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    program: ClassVar[str] = "outrider"
    # Variables by which other engines set some of the fields. They count where nothing else sets the field.
    familiar_names: ClassVar[Mapping[str, str]] = {}

    log_level: LogLevel = Field("info", description="least severe messages that are logged")
    log_format: LogFormat = Field("text", description="one line of text or one JSON object a message, on stderr")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources of values, the one that wins first."""
        familiar = {field: os.environ[name] for name, field in cls.familiar_names.items() if os.environ.get(name)}
        # `env_ignore_empty` of the settings themselves would ignore empty flags too, which are to be refused.
        variables = EnvSettingsSource(settings_cls, env_ignore_empty=True)
        return init_settings, variables, InitSettingsSource(settings_cls, familiar)


class ServerSettings(ProgramSettings):
    """Settings that every server has."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="address to listen on, or unix:/path, a socket without a port"
    )
    port: int = Field(0, ge=0, le=65535, description="port to listen on; 0 takes a free one, which is printed")
    tls_cert: FileName | None = Field(None, description="PEM file with the server's certificate chain; turns TLS on")
    tls_key: FileName | None = Field(None, description="PEM file with the private key of --tls-cert")
    tls_client_ca: FileName | None = Field(None, description="PEM file; clients must show a certificate signed by it")
    api_key_file: FileName | None = Field(
        None, description="file with a `name: key` a line; callers must show one of the keys"
    )
    allow_anyone: bool = Field(False, description="let other machines in without keys and certificates")
    max_message_bytes: int = Field(
        DEFAULT_MAX_MESSAGE_BYTES, ge=64 * 1024, le=2**31 - 1, description="largest message taken or sent, in bytes"
    )
    drain_timeout_s: float = Field(
        10.0, ge=0, le=3600, allow_inf_nan=False, description="seconds that requests under way get when stopping"
    )
    stop_with_stdin: bool = Field(False, description="stop when stdin is closed, as it is when a supervisor dies")
    trace_detail: TraceDetail = Field("cycle", description="whether traces have spans for requests only, or for cycles")

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("--tls-cert and --tls-key are needed together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("--tls-client-ca needs --tls-cert and --tls-key")
        return self

    @model_validator(mode="after")
    def _check_callers(self) -> Self:
        self.check_reach("--host", self.host)
        return self

    def check_reach(self, flag: str, host: str) -> None:
        """Raise ValueError where a host to listen on, which `flag` names, lets in callers whom nothing lets know."""
        knows_callers = self.api_key_file is not None or self.tls_client_ca is not None
        if not (is_loopback(host) or knows_callers or self.allow_anyone):
            raise ValueError(
                f"{flag} {host} lets other machines in: name an --api-key-file or a --tls-client-ca, "
                "or say --allow-anyone"
            )


class PeerSettings(BaseModel):
    """How a program calls servers, and proves itself to them and they to it. A mix-in for ProgramSettings."""

    peer_tls: bool = Field(False, description="call servers over TLS")
    peer_ca: FileName | None = Field(None, description="PEM file that signs the servers; the system's where absent")
    peer_cert: FileName | None = Field(
        None, description="PEM file with the certificate shown to servers that ask for one"
    )
    peer_key: FileName | None = Field(None, description="PEM file with the private key of --peer-cert")
    peer_api_key_file: FileName | None = Field(
        None, description="file with the key that servers are shown, alone or as `name: key`"
    )
    # Never shown: there may be a password in it.
    peer_proxy: str = Field(
        "",
        description="HTTP proxy through which servers are called, as in http://HOST:PORT; no other is used",
        repr=False,
    )

    @field_validator("peer_proxy")
    @classmethod
    def _check_peer_proxy(cls, proxy: str) -> str:
        # gRPC calls directly, and logs an error, where it cannot use a proxy.
        found = _PROXY.fullmatch(proxy)
        if proxy and not (found and is_port(found["port"])):
            raise ValueError("a proxy is http://HOST:PORT, with USER:PASSWORD@ before the host where it asks for them")
        return proxy

    @model_validator(mode="after")
    def _check_peer_tls(self) -> Self:
        if (self.peer_cert is None) != (self.peer_key is None):
            raise ValueError("--peer-cert and --peer-key are needed together")
        if not self.peer_tls and (self.peer_ca is not None or self.peer_cert is not None):
            raise ValueError("--peer-ca and --peer-cert need --peer-tls")
        return self


SettingsT = TypeVar("SettingsT", bound=ProgramSettings)


def parse_settings(cls: type[SettingsT], argv: Sequence[str] | None = None) -> SettingsT:
    """Read `cls` from `argv` (the process's own where None) and the environment.

    Ends the process: with exit code 2 and a sentence where a setting is refused, with 0 after --help and --version.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = Parser(
        prog=cls.program,
        description=inspect.getdoc(cls),
        epilog=f"Flags can be set in the environment too, as in {_variable(cls, 'log_level')}; the command line wins.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{cls.program} {VERSION}", help="print the version")
    try:
        source: CliSettingsSource[Any] = CliSettingsSource(cls, root_parser=parser)
        return _build(cls, arguments, _cli_settings_source=source(args=arguments))
    except StartupError as error:
        refuse(error, cls.program)


def load_settings(cls: type[SettingsT], values: Mapping[str, Any] | None = None) -> SettingsT:
    """Build `cls` from `values` by field name, then the environment, then the defaults.

    Raises StartupError where a setting is refused.
    """
    return _build(cls, [], **(values or {}))


def _build(cls: type[SettingsT], arguments: Sequence[str], **values: Any) -> SettingsT:
    _refuse_unknown_variables(cls)
    try:
        return cls(**values)
    except ValidationError as error:
        raise StartupError(_sentence(cls, arguments, error)) from error
    except SettingsError as error:
        # A list in the environment is JSON.
        raise StartupError(f"a value in the environment cannot be read: {error}") from error


def _refuse_unknown_variables(cls: type[ProgramSettings]) -> None:
    """Raise StartupError for a variable that has the prefix of `cls` and names no field: most likely a typing error."""
    prefix = _variable(cls, "")
    known = {_variable(cls, name) for name in cls.model_fields}
    for name in sorted(name for name, value in os.environ.items() if value):
        if name.upper().startswith(prefix) and name.upper() not in known:
            raise StartupError(f"the environment variable {name} names no setting: unset it, or see --help")


def _variable(cls: type[ProgramSettings], field: str) -> str:
    return f"{cls.model_config.get('env_prefix', '')}{field}".upper()


def _flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _sentence(cls: type[ProgramSettings], arguments: Sequence[str], error: ValidationError) -> str:
    """Return pydantic's first problem as a sentence, and how many others there are."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    message = first["msg"].removeprefix("Value error, ")
    if first["loc"]:
        field = str(first["loc"][0])
        flag, variable = _flag(field), _variable(cls, field)
        is_flag = any(argument == flag or argument.startswith(f"{flag}=") for argument in arguments)
        variables = [variable] if os.environ.get(variable) else []
        variables += [name for name, known in cls.familiar_names.items() if known == field and os.environ.get(name)]
        if first["type"] == "missing":
            message = f"{flag} is missing (or {variable} in the environment)"
        else:
            name = flag if is_flag or not variables else variables[0]
            is_secret = field in cls.model_fields and not cls.model_fields[field].repr
            value = "" if is_secret else f" is {first['input']!r}"
            message = f"{name}{value}: {message[0].lower()}{message[1:]}"
    others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return message + others
