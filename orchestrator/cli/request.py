"""What `outrider generate` and `outrider chat` ask for."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NoReturn

import typer
from google.protobuf import json_format, struct_pb2

from orchestrator.cli.texts import MOST_BYTES, valid_text
from orchestrator.drafting.drafter import DRAFTERS
from outrider.v1 import common_pb2, generation_pb2
from services.frame.program.startup import StartupError
from services.frame.rpc.limits import MAX_DRAFT_TOKENS

_MOST_TOKENS = 2**31 - 1
# The least and the most of what sampling takes, and how that is said.
_RANGES = {
    "temperature": (0, 100, "0 to 100"),
    "top_k": (0, 2**32 - 1, "0 or more"),
    "top_p": (math.nextafter(0, 1), 1, "above 0, up to 1"),
    "min_p": (0, math.nextafter(1, 0), "from 0, below 1"),
    "repetition_penalty": (0.01, 100, "0.01 to 100"),
    "presence_penalty": (-100, 100, "-100 to 100"),
    "frequency_penalty": (-100, 100, "-100 to 100"),
}
_NOBODY_IN_PARTICULAR = (
    generation_pb2.DRAFTER_UNSPECIFIED,
    generation_pb2.DRAFTER_AUTO,
    generation_pb2.DRAFTER_NONE,
)
_MaxTokens = Annotated[
    int, typer.Option(min=-1, max=_MOST_TOKENS, help="most tokens to generate; -1 as many as the context holds")
]
_Temperature = Annotated[float, typer.Option(help="0 takes the most probable token, more is more random")]


@dataclass(frozen=True)
class RequestOptions:
    """How a text is generated."""

    max_tokens: _MaxTokens = 128
    temperature: _Temperature = 0.0
    top_k: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="keep the k most probable; 0 keeps all")] = (
        None
    )
    top_p: Annotated[
        float | None, typer.Option(help="keep the most probable whose mass reaches this, above 0, up to 1")
    ] = None
    min_p: Annotated[
        float | None, typer.Option(help="keep those at least this many times as probable as the best, from 0, below 1")
    ] = None
    repetition_penalty: Annotated[
        float | None, typer.Option(help="makes tokens of the last 64 less probable where above 1; 1 is no penalty")
    ] = None
    presence_penalty: Annotated[
        float | None, typer.Option(help="subtracted once from the logit of a token of the last 64, -100 to 100")
    ] = None
    frequency_penalty: Annotated[
        float | None, typer.Option(help="subtracted for each time that a token is among the last 64, -100 to 100")
    ] = None
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="end before this text; may be given several times")
    ] = None
    stop_token: Annotated[
        list[int] | None,
        typer.Option(
            metavar="ID", min=0, max=2**32 - 1, help="end with the token of this id; may be given several times"
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**64 - 1, help="the same seed gives the same text; drawn if absent")
    ] = None
    speculation: Annotated[str, typer.Option(help="auto, off, or a fixed number of draft tokens")] = "auto"
    answer_by: Annotated[
        str | None,
        typer.Option(
            metavar="target|draft|NAME", help="which model answers: the target if absent, draft is the draft by itself"
        ),
    ] = None

    def request(self, drafter: str | None) -> generation_pb2.GenerateRequest:
        """Return what is asked for, without a prompt. Raises StartupError."""
        if self.max_tokens == 0:
            raise StartupError("--max-tokens is at least 1, or -1 for as many as the context holds")
        return generation_pb2.GenerateRequest(
            max_tokens=self.max_tokens if self.max_tokens > 0 else _MOST_TOKENS,
            sampling=self._sampling(),
            stop=[valid_text(text, "--stop") for text in self.stop or ()],
            stop_tokens=self.stop_token,
            seed=self.seed,
            speculation=speculation_of(self.speculation, drafter),
            model="" if self.answer_by is None else valid_text(self.answer_by, "--answer-by"),
        )

    def _sampling(self) -> common_pb2.Sampling:
        sampling = common_pb2.Sampling()
        for name, (low, high, range_) in _RANGES.items():
            value = getattr(self, name)
            if value is None:
                continue
            # What is not a number is within no range.
            if not low <= value <= high:
                raise StartupError(f"--{name.replace('_', '-')} is {range_}, not {value}")
            setattr(sampling, name, value)
        return sampling


@dataclass(frozen=True)
class AnswerOptions(RequestOptions):
    """How an answer of a chat is generated."""

    max_tokens: _MaxTokens = 512
    temperature: _Temperature = 0.8


@dataclass(frozen=True)
class TemplateOptions:
    """What a chat's template is given."""

    system: Annotated[str | None, typer.Option(help="what the model is told before the chat")] = None
    template_name: Annotated[str | None, typer.Option(help="one of the model's named chat templates")] = None
    template_variable: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="what the template may ask for, JSON or a text, as enable_thinking=false; may be given several times",
        ),
    ] = None

    def chat(self) -> generation_pb2.ChatPrompt:
        """Return a chat without what the user says. Raises StartupError."""
        chat = generation_pb2.ChatPrompt(template_variables=_variables(self.template_variable or ()))
        if self.system is not None:
            chat.messages.add(role="system", content=valid_text(self.system, "--system"))
        if self.template_name is not None:
            chat.template_name = valid_text(self.template_name, "--template-name")
        return chat


def check_size(request: generation_pb2.GenerateRequest) -> None:
    """Raise StartupError for a request that cannot be sent."""
    if (num_bytes := request.ByteSize()) > MOST_BYTES:
        raise StartupError(f"all that is asked has {num_bytes} bytes, and a request may have {MOST_BYTES}")


def check_draft_alone(request: generation_pb2.GenerateRequest, *, has_draft: bool) -> None:
    """Raise StartupError where the draft model is to answer by itself, and is not there or is to be drafted for."""
    if request.model != "draft":
        return
    speculation = request.speculation
    is_drafted_for = (
        speculation.mode == generation_pb2.SPECULATION_MODE_FIXED
        or speculation.drafter not in _NOBODY_IN_PARTICULAR
        or request.HasField("prediction")
    )
    if is_drafted_for:
        raise StartupError(
            "nobody drafts for the draft model: with --answer-by draft leave out --drafter, --prediction and a number "
            "of --speculation"
        )
    if not has_draft:
        raise StartupError("--answer-by draft needs a draft model: name one with --draft, and a drafter that uses it")


def speculation_of(text: str, drafter: str | None) -> generation_pb2.Speculation:
    """Return what `--speculation` and `--drafter` ask for. Raises StartupError."""
    speculation = generation_pb2.Speculation()
    if drafter:
        speculation.drafter = DRAFTERS[drafter]
    if text == "auto":
        speculation.mode = generation_pb2.SPECULATION_MODE_AUTO
    elif text in ("off", "0"):
        speculation.mode = generation_pb2.SPECULATION_MODE_OFF
    elif text.isdecimal() and int(text) <= MAX_DRAFT_TOKENS:
        speculation.mode, speculation.num_draft_tokens = generation_pb2.SPECULATION_MODE_FIXED, int(text)
    else:
        raise StartupError(f"--speculation is auto, off or a number up to {MAX_DRAFT_TOKENS}, not {text!r}")
    return speculation


def _variables(given: Sequence[str]) -> struct_pb2.Struct:
    values = {}
    for each in given:
        name, sign, value = valid_text(each, "--template-variable").partition("=")
        if not (name and sign):
            raise StartupError(f"--template-variable is NAME=VALUE, not {each!r}")
        values[name] = _json_or_text(value)
    try:
        return json_format.ParseDict(values, struct_pb2.Struct())
    except (json_format.ParseError, ValueError, RecursionError) as error:
        raise StartupError(f"--template-variable holds what cannot be sent: {error}") from error


def _json_or_text(value: str) -> object:
    try:
        return json.loads(value, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}")
