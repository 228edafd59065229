"""Fields that requests for completions and chats have in common, and what they mean as a GenerateRequest."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from orchestrator.http.exchange.reading import Fields
from orchestrator.http.speculation import SpeculationFields
from outrider.v1 import common_pb2, generation_pb2
from services.frame.rpc.errors import invalid_argument

Uint32: TypeAlias = Annotated[int, Field(ge=0, le=2**32 - 1)]
NumTokens: TypeAlias = Annotated[int, Field(ge=0)]
Requests: TypeAlias = Sequence[generation_pb2.GenerateRequest]
_MOST_INT32 = 2**31 - 1
# More would be seeds that do not fit.
_MOST_CHOICES = 128

# Fields by their beginnings in GenerateRequest.
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "sampling.penalty_last_n": "repeat_last_n",
        "sampling.": "",
        "speculation.": "outrider.",
        "stop_tokens": "stop_token_ids",
        "chat.template_variables": "chat_template_kwargs",
        "chat.": "",
    }
)


class StreamOptions(Fields):
    """What a stream has beside text."""

    include_usage: bool | None = Field(None, description="whether a last chunk has the usage")
    include_obfuscation: bool | None = Field(None, description="changes nothing: there is none")


class SharedFields(Fields):
    """What completions and chats take alike."""

    model: str | None = Field(None, description="the target's name, `target`, or absent")
    n: int | None = Field(None, ge=1, le=_MOST_CHOICES, description="choices; choice i has the seed + i")
    stop: str | list[str] | None = Field(None, description="texts before the first of which an answer ends, at most 64")
    stop_token_ids: list[Uint32] | None = Field(None, description="the same by token id, at most 64")
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] | None = Field(None, description="drawn, and told, if absent")
    stream: bool | None = Field(None, description="whether the answer comes as events")
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, description="1 if absent; 0 takes the most probable token")
    top_p: float | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**32 - 1)] | None = Field(None, description="0 and -1 keep all")
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: Uint32 | None = Field(None, description="tokens that penalties look back, the prompt's too; 64")
    logit_bias: dict[str, float] | None = Field(None, description="added to logits, by token id")
    outrider: SpeculationFields | None = Field(None, description="speculation of this request, and exactness")
    user: str | None = Field(None, description="changes nothing")
    metadata: dict[str, str] | None = Field(None, description="changes nothing")
    safety_identifier: str | None = Field(None, description="changes nothing")
    prompt_cache_key: str | None = Field(None, description="changes nothing: prompts are kept by what they are")
    prompt_cache_retention: str | None = Field(None, description="changes nothing")
    service_tier: Literal["auto", "default"] | None = Field(None, description="changes nothing")
    store: Literal[False] | None = Field(None, description="nothing is stored")

    @property
    def num_choices(self) -> int:
        """How many answers each prompt has."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with its usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def fill(self, request: generation_pb2.GenerateRequest) -> None:
        """Put into a request what these fields mean. Raises ServiceError."""
        request.sampling.CopyFrom(self._sampling())
        if self.seed is not None:
            request.seed = self.seed
        request.stop.extend([self.stop] if isinstance(self.stop, str) else self.stop or ())
        request.stop_tokens.extend(self.stop_token_ids or ())
        if self.outrider is not None:
            self.outrider.fill(request)

    def _sampling(self) -> common_pb2.Sampling:
        named: dict[str, Any] = {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": self.top_p,
            "top_k": max(0, self.top_k or 0),
            "min_p": self.min_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "repetition_penalty": self.repetition_penalty,
            "penalty_last_n": self.repeat_last_n,
        }
        sampling = common_pb2.Sampling(**{name: value for name, value in named.items() if value is not None})
        for token, bias in (self.logit_bias or {}).items():
            sampling.logit_bias[_token_id(token)] = bias
        return sampling


def num_tokens(asked: int | None, default: int) -> int:
    """Return how many tokens a request may have, as a message holds it."""
    return min(default if asked is None else asked, _MOST_INT32)


def choices_of(request: generation_pb2.GenerateRequest, num: int, draw: int) -> list[generation_pb2.GenerateRequest]:
    """Return a request for each choice. The first one has the seed, or `draw` where there are several and no seed."""
    if num == 1:
        return [request]
    first = request.seed if request.HasField("seed") else draw
    choices = []
    for index in range(num):
        choice = generation_pb2.GenerateRequest()
        choice.CopyFrom(request)
        choice.seed = (first + index) % 2**64
        choices.append(choice)
    return choices


def _token_id(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= 1 << 32:
        sentence = 'logit_bias has token ids as its keys, as in {"50256": -100}'
        raise invalid_argument("INVALID_SAMPLING", "logit_bias", sentence)
    return int(text)
