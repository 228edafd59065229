"""How tokens are chosen: the fields that every API takes for that, and what they mean as a GenerateRequest."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, TypeAlias

from google.protobuf import json_format, struct_pb2
from pydantic import Field

from orchestrator.http.exchange.reading import Fields, Many, Uint32, at_most
from orchestrator.http.speculation import SpeculationFields
from outrider.v1 import common_pb2, generation_pb2
from services.frame.rpc.errors import invalid_argument

NumTokens: TypeAlias = Annotated[int, Field(ge=0)]
Requests: TypeAlias = Sequence[generation_pb2.GenerateRequest]
_MOST_INT32 = 2**31 - 1

# Fields by their beginnings in GenerateRequest.
NAMES: Mapping[str, str] = MappingProxyType(
    {
        "sampling.penalty_last_n": "repeat_last_n",
        "sampling.": "",
        "speculation.": "outrider.",
        "stop_tokens": "stop_token_ids",
        "chat.template_variables": "chat_template_kwargs",
        "prediction.text": "prediction.content",
        "chat.": "",
    }
)


class SamplingFields(Fields):
    """What every request for text takes."""

    model: str | None = Field(None, description="a name of `/v1/models`; the target if absent")
    stream: bool | None = Field(None, description="whether the answer comes as events")
    temperature: float | None = Field(None, description="1 if absent; 0 takes the most probable token")
    top_p: float | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**32 - 1)] | None = Field(None, description="0 and -1 keep all")
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: Uint32 | None = Field(None, description="tokens that penalties look back, the prompt's too; 64")
    logit_bias: Annotated[dict[str, float] | None, at_most(4096)] = Field(
        None, description="added to logits, by token id"
    )
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] | None = Field(None, description="drawn, and told, if absent")
    stop_token_ids: Many[Uint32] | None = Field(None, description="ids with the first of which an answer ends")
    outrider: SpeculationFields | None = Field(None, description="speculation of this request, and exactness")

    def fill(self, request: generation_pb2.GenerateRequest) -> None:
        """Put into a request what these fields mean. Raises ServiceError."""
        request.model = self.model or ""
        request.sampling.CopyFrom(self._sampling())
        if self.seed is not None:
            request.seed = self.seed
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


def template_variables(variables: dict[str, Any]) -> struct_pb2.Struct:
    """Return variables of the template as the protocol has them. Raises ServiceError for what no message holds."""
    try:
        return json_format.ParseDict(variables, struct_pb2.Struct())
    except json_format.ParseError as error:
        sentence = "chat_template_kwargs are nested less than 100 deep"
        raise invalid_argument("INVALID_REQUEST", "chat_template_kwargs", sentence) from error


def _token_id(text: str) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) >= 1 << 32:
        sentence = 'logit_bias has token ids as its keys, as in {"50256": -100}'
        raise invalid_argument("INVALID_SAMPLING", "logit_bias", sentence)
    return int(text)
