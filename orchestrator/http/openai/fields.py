"""Fields that OpenAI's requests have in common, and those of which nothing comes."""

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.http.exchange.reading import Fields, Many, at_most
from orchestrator.http.openai.parts import Prediction
from orchestrator.http.sampling import SamplingFields
from orchestrator.http.speculation import ReportFields
from outrider.v1 import generation_pb2

_MOST_CHOICES = 128


class CommonFields(SamplingFields):
    """What every path of OpenAI's API takes."""

    user: str | None = Field(None, description="changes nothing")
    metadata: Annotated[dict[str, str] | None, at_most(16)] = Field(None, description="changes nothing")
    safety_identifier: str | None = Field(None, description="changes nothing")
    prompt_cache_key: str | None = Field(None, description="changes nothing: prompts are kept by what they are")
    prompt_cache_retention: str | None = Field(None, description="changes nothing")
    service_tier: Literal["auto", "default"] | None = Field(None, description="changes nothing")
    store: Literal[False] | None = Field(None, description="nothing is stored")


class StreamOptions(Fields):
    """What a stream has beside text."""

    include_usage: bool | None = Field(None, description="whether a last chunk has the usage")
    include_obfuscation: bool | None = Field(None, description="changes nothing: there is none")


class ChoiceFields(CommonFields):
    """What completions and chats take alike."""

    n: Annotated[int, Field(ge=1, le=_MOST_CHOICES)] | None = Field(
        None, description="choices of each prompt; choice i has the seed + i"
    )
    stop: str | Many[str] | None = Field(None, description="texts before the first of which an answer ends, at most 64")
    stream_options: StreamOptions | None = None
    prediction: Prediction | None = Field(None, description="the text that is expected: what of it is right is drafted")
    outrider: ReportFields | None = Field(None, description="speculation of this request, exactness, and reports")

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
        super().fill(request)
        request.stop.extend([self.stop] if isinstance(self.stop, str) else self.stop or ())
        if self.prediction is not None:
            request.prediction.text = self.prediction.text


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
