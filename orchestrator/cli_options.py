"""What several commands of the command line have in common: their options, and what these mean."""

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import ValidationError

from orchestrator.model_files import find_pair
from orchestrator.settings import OrchestratorSettings
from orchestrator.speculation import DRAFTERS
from orchestrator.stack import StackOptions
from outrider.v1 import common_pb2, generation_pb2
from services.frame.address import check_address
from services.frame.channel import ClientTls, client_tls
from services.frame.settings import PeerSettings, load_settings
from services.frame.startup import StartupError


def refuse_empty(context: typer.Context, parameter: typer.CallbackParam, value: str | None) -> str | None:
    """Return the value of a parameter. Raises StartupError for an empty one of the command line."""
    source = context.get_parameter_source(parameter.name or "")
    if value == "" and source is not None and source.name == "COMMANDLINE":
        raise StartupError(f"{parameter.opts[0]} is empty: give it a value")
    return value


def refuse_unreachable(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """Return an address. Raises StartupError for an empty one of the command line, and a port that no server has."""
    try:
        return check_address(refuse_empty(context, parameter, value) or "")
    except ValueError as error:
        raise StartupError(f"{parameter.opts[0]} is {value!r}: {error}") from error


MOST_TOKENS = 2**31 - 1
MODEL = "PATH|hf:OWNER/REPO/FILE"
# Other engines' names for a variable come after our own.
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
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
DrafterOption = Annotated[
    Literal["auto", "remote", "ngram", "none"] | None,
    typer.Option(
        "--drafter",
        help="who drafts: the draft model (remote), lookup in the text itself (ngram), nobody, or auto, the first that "
        "can; as OUTRIDER_ORCHESTRATOR_DRAFTER or ENABLE_SPECULATIVE says if absent, else auto",
    ),
]
AddressOption = Annotated[
    str, typer.Option(callback=refuse_unreachable, help="a running orchestrator; a stack of our own if absent")
]
PeerTlsOption = Annotated[bool, typer.Option("--peer-tls", help="call the orchestrator at --address over TLS")]
PeerCaOption = Annotated[
    str | None,
    typer.Option(
        "--peer-ca", callback=refuse_empty, help="PEM file that signs the orchestrator; the system's where absent"
    ),
]
PeerCertOption = Annotated[
    str | None,
    typer.Option(
        "--peer-cert",
        callback=refuse_empty,
        help="PEM file with the certificate shown to an orchestrator that asks for one",
    ),
]
PeerKeyOption = Annotated[
    str | None, typer.Option("--peer-key", callback=refuse_empty, help="PEM file with the private key of --peer-cert")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object")]
TemperatureOption = Annotated[float, typer.Option(help="0 takes the most probable token, more is more random")]
TopKOption = Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="keep the k most probable; 0 keeps all")]
TopPOption = Annotated[
    float | None, typer.Option(help="keep the most probable whose mass reaches this, above 0, up to 1")
]
MinPOption = Annotated[
    float | None, typer.Option(help="keep those at least this many times as probable as the best, from 0, below 1")
]
RepetitionOption = Annotated[
    float | None, typer.Option(help="makes tokens of the last 64 less probable where above 1; 1 is no penalty")
]
PresenceOption = Annotated[
    float | None, typer.Option(help="subtracted once from the logit of a token of the last 64, -100 to 100")
]
FrequencyOption = Annotated[
    float | None, typer.Option(help="subtracted for each time that a token is among the last 64, -100 to 100")
]
StopOption = Annotated[list[str] | None, typer.Option(help="end before this text; may be given several times")]
SeedOption = Annotated[
    int | None, typer.Option(min=0, max=2**64 - 1, help="the same seed gives the same text; drawn if absent")
]
SpeculationOption = Annotated[str, typer.Option(help="auto, off, or a fixed number of draft tokens")]
MaxTokensOption = Annotated[
    int, typer.Option(min=-1, max=MOST_TOKENS, help="most tokens to generate; -1 as many as the context holds")
]
ExactOption = Annotated[
    Literal["auto", "on", "off"],
    typer.Option(
        envvar="OUTRIDER_TARGET_EXACT",
        help="whether the text is the same to the bit whatever else is served",
    ),
]


def stack_options(
    target: str | None,
    draft: str | None,
    drafter: str | None,
    exact: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    log_level: str | None = "warning",
    model_flags: Sequence[str] = (),
) -> StackOptions:
    """Return what a stack serves, and how; `model_flags` are for target and draft alike. Raises StartupError."""
    # As the orchestrator's process will read it, so that a draft model that nobody asks is not loaded.
    drafter = drafter or load_settings(OrchestratorSettings).drafter
    target_path, draft_path = find_pair(target, draft, wants_draft=drafter in ("auto", "remote"))
    return StackOptions(
        target_path,
        draft_path,
        host,
        port,
        log_level,
        target_flags=("--exact", exact, *model_flags),
        draft_flags=model_flags,
        orchestrator_flags=("--drafter", drafter),
    )


def peer_tls() -> ClientTls | None:
    """Return how the services of a stack are called, as its orchestrator does it. Raises StartupError."""
    settings = load_settings(OrchestratorSettings)
    for name in ("OUTRIDER_TARGET_TLS_CERT", "OUTRIDER_DRAFT_TLS_CERT"):
        if os.environ.get(name) and not settings.peer_tls:
            raise StartupError(f"{name} is set, so OUTRIDER_ORCHESTRATOR_PEER_TLS and _PEER_CA must be set too")
    return client_tls(settings)


def orchestrator_tls(address: str, is_tls: bool, ca: str | None, cert: str | None, key: str | None) -> ClientTls | None:
    """Return how the orchestrator at `address` is called; None is without TLS. Raises StartupError."""
    if is_tls and not address:
        raise StartupError("--peer-tls is for a running orchestrator: name its --address")
    try:
        settings = PeerSettings.model_validate({"peer_tls": is_tls, "peer_ca": ca, "peer_cert": cert, "peer_key": key})
    except ValidationError as error:
        raise StartupError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    return client_tls(settings)


def own_stack(
    context: typer.Context, address: str, target: str | None, draft: str | None, drafter: str | None, exact: str
) -> StackOptions | None:
    """Return what a stack of our own serves, None where the command line names a running orchestrator.

    Raises StartupError, also for flags that such an orchestrator would know nothing of.
    """
    if not address:
        if os.environ.get("OUTRIDER_ORCHESTRATOR_TLS_CERT"):
            raise StartupError("OUTRIDER_ORCHESTRATOR_TLS_CERT is set, which is for `outrider serve` only: unset it")
        return stack_options(target, draft, drafter, exact)
    for name in ("target", "draft", "exact"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise StartupError(f"--{name} is for a stack of our own, and --address names one that runs")
    return None


def valid_prompt(text: str) -> str:
    """Return a prompt that can be sent. Raises StartupError for one that is empty or no text."""
    if not text:
        raise StartupError("the prompt is empty: give a text to go on with")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise StartupError("the prompt is not valid UTF-8") from error
    return text


def read_prompt(prompt: str | None, path: str | None) -> str:
    """Return the text to go on with: as it is, that of stdin for `-`, or that of a file, without the last newline.

    Raises StartupError.
    """
    if (prompt is None) == (path is None):
        raise StartupError("give one of them: a PROMPT, - for that of stdin, or --file with the name of a file")
    source = path or prompt or ""
    if path is None and source != "-":
        return valid_prompt(source)
    try:
        text = (_stdin() if source == "-" else Path(source).read_bytes()).decode()
    except UnicodeDecodeError as error:
        raise StartupError("the prompt is not valid UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StartupError(f"cannot read the prompt {source}: {reason}") from error
    return valid_prompt(text.removesuffix("\n").removesuffix("\r"))


def _stdin() -> bytes:
    # None where it was closed before the start.
    return sys.stdin.buffer.read() if sys.stdin else b""


def valid_max_tokens(max_tokens: int) -> int:
    """Return how many tokens to ask for. Raises StartupError for none."""
    if max_tokens == 0:
        raise StartupError("--max-tokens is at least 1, or -1 for as many as the context holds")
    return max_tokens if max_tokens > 0 else MOST_TOKENS


def sampling_of(
    temperature: float,
    *,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
    presence_penalty: float | None,
    frequency_penalty: float | None,
) -> common_pb2.Sampling:
    """Return how tokens are chosen; the target knows the rest of the rules. Raises StartupError for what it refuses."""
    sampling = common_pb2.Sampling(temperature=temperature)
    given = {
        "temperature": (temperature, 0, math.inf, "0 or more"),
        "top_k": (top_k, 0, 2**32 - 1, "0 or more"),
        "top_p": (top_p, 0, 1, "above 0, up to 1"),
        "min_p": (min_p, 0, 1, "from 0, below 1"),
        "repetition_penalty": (repetition_penalty, 0.01, 100, "0.01 to 100"),
        "presence_penalty": (presence_penalty, -100, 100, "-100 to 100"),
        "frequency_penalty": (frequency_penalty, -100, 100, "-100 to 100"),
    }
    for name, (value, low, high, range_) in given.items():
        if value is None:
            continue
        # What is not a number is within no range. An end that is no part of it is refused by the target.
        if not low <= value <= high or value == math.inf:
            raise StartupError(f"--{name.replace('_', '-')} is {range_}, not {value}")
        setattr(sampling, name, value)
    return sampling


def speculation_of(text: str, drafter: str | None) -> generation_pb2.Speculation:
    """Return what `--speculation` and `--drafter` ask for. Raises StartupError."""
    speculation = generation_pb2.Speculation()
    if drafter:
        speculation.drafter = DRAFTERS[drafter]
    if text == "auto":
        speculation.mode = generation_pb2.SPECULATION_MODE_AUTO
    elif text in ("off", "0"):
        speculation.mode = generation_pb2.SPECULATION_MODE_OFF
    elif text.isdecimal() and int(text) < 2**32:
        speculation.mode, speculation.num_draft_tokens = generation_pb2.SPECULATION_MODE_FIXED, int(text)
    else:
        raise StartupError(f"--speculation is auto, off or a number, not {text!r}")
    return speculation
