"""What several commands of the command line say of models, processes and peers, and what it means."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from orchestrator.cli.model_files import find_pair
from orchestrator.settings import DrafterName, OrchestratorSettings
from orchestrator.stack.named import NAMED_MODELS
from orchestrator.stack.stack import StackOptions
from outrider.v1 import common_pb2
from services.frame.program.address import check_address
from services.frame.program.api_keys import ApiKeys, check_key
from services.frame.program.settings import PeerSettings, load_settings
from services.frame.program.startup import StartupError
from services.frame.rpc.channel import Credentials, client_credentials


def is_given(context: typer.Context, name: str) -> bool:
    """Return whether the command line says what a parameter is."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_empty(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> str | None:
    """Return the value of a parameter. Raises StartupError for an empty one of the command line."""
    if value == "" and is_given(context, parameter.name or ""):
        raise StartupError(f"{parameter.opts[0]} is empty: give it a value")
    return value


def refuse_unreachable(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Return an address. Raises StartupError for an empty one of the command line, and a port that no server has."""
    try:
        return check_address(refuse_empty(context, parameter, value) or "")
    except ValueError as error:
        raise StartupError(f"{parameter.opts[0]} is {value!r}: {error}") from error


MODEL = f"PATH|hf:OWNER/REPO/FILE|{'|'.join(NAMED_MODELS)}"
# Holds the key itself.
_KEY_VARIABLE = "OUTRIDER_API_KEY"
AddressOption = Annotated[
    str, typer.Option(callback=refuse_unreachable, help="a running orchestrator; a stack of our own if absent")
]
# Other engines' names for a variable come after our own.
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        "--model",
        metavar=MODEL,
        callback=refuse_empty,
        envvar=["OUTRIDER_TARGET_MODEL", "TARGET_MODEL_PATH"],
        help="GGUF file of the target; the default pair if absent",
    ),
]
DraftOption = Annotated[
    str | None,
    typer.Option(
        "--draft",
        metavar=MODEL,
        callback=refuse_empty,
        envvar=["OUTRIDER_DRAFT_MODEL", "DRAFT_MODEL_PATH"],
        help="GGUF file of the draft; if absent that of the default pair, or none beside a --target",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object")]


@dataclass(frozen=True)
class CallerOptions:
    """Who may call the orchestrator of a stack, and what they are told beside answers."""

    api_key_file: Annotated[
        str | None,
        typer.Option(
            callback=refuse_empty,
            envvar="OUTRIDER_ORCHESTRATOR_API_KEY_FILE",
            help="file with a `name: key` a line; clients must show one of the keys",
        ),
    ] = None
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="let other machines in without keys and certificates")
    ] = False
    tls_cert: Annotated[
        str | None,
        typer.Option(
            callback=refuse_empty,
            envvar="OUTRIDER_ORCHESTRATOR_TLS_CERT",
            help="PEM certificate chain; with it and --tls-key clients must speak TLS",
        ),
    ] = None
    tls_key: Annotated[
        str | None,
        typer.Option(callback=refuse_empty, envvar="OUTRIDER_ORCHESTRATOR_TLS_KEY", help="PEM key of the certificate"),
    ] = None
    http_names: Annotated[
        str | None,
        typer.Option(
            envvar="OUTRIDER_ORCHESTRATOR_HTTP_NAMES",
            help="names beside addresses that HTTP is asked by, with commas between; needed without keys alone",
        ),
    ] = None
    http_origins: Annotated[
        str | None,
        typer.Option(
            envvar="OUTRIDER_ORCHESTRATOR_HTTP_ORIGINS",
            help="origins of web pages that may ask over HTTP, with commas between; * is every page",
        ),
    ] = None
    trace_url: Annotated[
        str | None,
        typer.Option(
            envvar="OUTRIDER_ORCHESTRATOR_TRACE_URL",
            help="where a trace is seen, as in http://localhost:16686/trace/{trace_id}; HTTP answers tell it",
        ),
    ] = None

    def values(self) -> dict[str, Any]:
        """Return what was given, by the orchestrator's settings."""
        return {name: value for name, value in vars(self).items() if value}

    def flags(self) -> list[str]:
        """Return what was given, as flags of the orchestrator."""
        flags = {f"--{name.replace('_', '-')}": value for name, value in self.values().items()}
        return [flag if value is True else f"{flag}={value}" for flag, value in flags.items()]


@dataclass(frozen=True)
class ModelOptions:
    """What a stack of our own serves."""

    target: TargetOption = None
    draft: DraftOption = None
    drafter: Annotated[
        DrafterName | None,
        typer.Option(
            "--drafter",
            help="who drafts: the draft model (remote), lookup in the text itself (ngram), a prediction alone, nobody, "
            "or auto, all that can; as OUTRIDER_ORCHESTRATOR_DRAFTER or ENABLE_SPECULATIVE says if absent, else auto",
        ),
    ] = None
    exact: Annotated[
        Literal["auto", "on", "off"],
        typer.Option(
            envvar="OUTRIDER_TARGET_EXACT",
            help="whether the text is the same to the bit whatever else is served",
        ),
    ] = "auto"

    def stack(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        http: str = "",
        log_level: str | None = "warning",
        model_flags: Sequence[str] = (),
        callers: CallerOptions = CallerOptions(),
    ) -> StackOptions:
        """Return what is served, and how. `http` is the address of HTTP, `model_flags` are for target and draft alike.

        Raises StartupError.
        """
        # As the orchestrator's process will read it, so that what it would refuse is refused before a model is loaded,
        # and no draft model is loaded that nobody asks.
        settings = load_settings(OrchestratorSettings, {"host": host, "port": port, "http": http, **callers.values()})
        if settings.api_key_file is not None:
            ApiKeys(settings.api_key_file)
        drafter = self.drafter or settings.drafter
        target_path, draft_path = find_pair(self.target, self.draft, wants_draft=drafter in ("auto", "remote"))
        return StackOptions(
            target_path,
            draft_path,
            host,
            port,
            log_level,
            target_flags=("--exact", self.exact, *model_flags),
            draft_flags=model_flags,
            orchestrator_flags=("--drafter", drafter, f"--http={http}", *callers.flags()),
        )

    def own_stack(self, context: typer.Context, address: str) -> StackOptions | None:
        """Return what is served, None where the command line names the address of a running orchestrator.

        Raises StartupError, also for flags that such an orchestrator would know nothing of.
        """
        if not address:
            for name in ("OUTRIDER_ORCHESTRATOR_TLS_CERT", "OUTRIDER_ORCHESTRATOR_API_KEY_FILE"):
                if os.environ.get(name):
                    raise StartupError(f"{name} is set, which is for `outrider serve` only: unset it")
            return self.stack()
        for name in ("target", "draft", "exact"):
            if is_given(context, name):
                raise StartupError(f"--{name} is for a stack of our own, and --address names one that runs")
        return None

    def advise(self, sampling: common_pb2.Sampling) -> None:
        """Sample as the makers of a model that goes by one word do; for any other one nothing is changed."""
        if named := NAMED_MODELS.get(self.target or ""):
            sampling.temperature, sampling.top_p = named.temperature, named.top_p


@dataclass(frozen=True)
class PeerOptions:
    """How a running orchestrator is called."""

    peer_tls: Annotated[bool, typer.Option("--peer-tls", help="call the orchestrator at --address over TLS")] = False
    peer_ca: Annotated[
        str | None,
        typer.Option(callback=refuse_empty, help="PEM file that signs the orchestrator; the system's where absent"),
    ] = None
    peer_cert: Annotated[
        str | None,
        typer.Option(
            callback=refuse_empty, help="PEM file with the certificate shown to an orchestrator that asks for one"
        ),
    ] = None
    peer_key: Annotated[
        str | None, typer.Option(callback=refuse_empty, help="PEM file with the private key of --peer-cert")
    ] = None

    peer_api_key_file: Annotated[
        str | None,
        typer.Option(
            callback=refuse_empty,
            help=f"file with the key that the orchestrator is shown; the one in {_KEY_VARIABLE} if absent",
        ),
    ] = None

    def credentials(self, address: str) -> Credentials:
        """Return how the orchestrator at `address` is called; anonymously where it is our own. Raises StartupError."""
        if not address:
            for is_given, flag in ((self.peer_tls, "--peer-tls"), (self.peer_api_key_file, "--peer-api-key-file")):
                if is_given:
                    raise StartupError(f"{flag} is for a running orchestrator: name its --address")
        try:
            settings = PeerSettings.model_validate(vars(self))
        except ValidationError as error:
            raise StartupError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        credentials = client_credentials(settings)
        key = os.environ.get(_KEY_VARIABLE, "")
        if not address or credentials.key is not None or not key:
            return credentials
        check_key(key, _KEY_VARIABLE)
        return replace(credentials, key=lambda: key)


def stack_credentials() -> Credentials:
    """Return how the services of a stack are called, as its orchestrator does it. Raises StartupError."""
    # Wherever that listens.
    settings = load_settings(OrchestratorSettings, {"host": "127.0.0.1"})
    for service in ("TARGET", "DRAFT"):
        for name, is_met, needed in (
            (f"OUTRIDER_{service}_TLS_CERT", settings.peer_tls, "_PEER_TLS and _PEER_CA"),
            (f"OUTRIDER_{service}_API_KEY_FILE", settings.peer_api_key_file, "_PEER_API_KEY_FILE"),
        ):
            if os.environ.get(name) and not is_met:
                raise StartupError(f"{name} is set, so OUTRIDER_ORCHESTRATOR{needed} must be set too")
    return client_credentials(settings)
