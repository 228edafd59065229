"""`/v1/completions`: text that goes on from a prompt, or from several."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias, cast

from fastapi import APIRouter, Request
from pydantic import Discriminator, Field, Tag
from starlette.responses import JSONResponse, Response

from orchestrator.generation.generation import draw_seed
from orchestrator.http.exchange.cycles import reports
from orchestrator.http.exchange.errors import unsupported
from orchestrator.http.exchange.reading import JsonRoute, Many, TokenIds, Uint32, Unsupported
from orchestrator.http.exchange.running import Answer, unless_gone
from orchestrator.http.exchange.stream import EventStream
from orchestrator.http.exchange.told import finish_reason
from orchestrator.http.openai.answer import OpenAIAnswer
from orchestrator.http.openai.fields import ChoiceFields, choices_of
from orchestrator.http.openai.log_probabilities import AnyTokens, CompletionLogProbabilities, TokenTexts
from orchestrator.http.sampling import NAMES, NumTokens, Requests, num_tokens
from orchestrator.http.served import Served
from orchestrator.http.target_texts import of_target
from outrider.v1 import generation_pb2, target_pb2
from services.frame.rpc.errors import invalid_argument

_PATH = "/v1/completions"
_NAMES = {"num_log_probabilities": "logprobs", "text": "prompt", "tokens.tokens": "prompt", **NAMES}
# What OpenAI's own has where nothing is asked for.
_MAX_TOKENS = 16
_MOST_PROMPTS = 128


def _kind(prompt: object) -> str:
    """Return what a prompt is by its first item, so that it is not read as all that it is not."""
    if not isinstance(prompt, list):
        return "text"
    first = prompt[0] if prompt else ""
    return "texts" if isinstance(first, str) else "token lists" if isinstance(first, list) else "tokens"


Prompts: TypeAlias = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Many[str], Tag("texts")]
    | Annotated[Many[TokenIds], Tag("token lists")]
    | Annotated[TokenIds, Tag("tokens")],
    Discriminator(_kind),
]


class CompletionRequest(ChoiceFields):
    """A request for completions."""

    prompt: Prompts = Field(
        description="a text, token ids, or a list of either; several prompts have their choices one after the other"
    )
    max_tokens: NumTokens | None = Field(None, description="most tokens of a choice; 16 if absent")
    logprobs: Uint32 | None = Field(None, description="log-probabilities, with so many of the most probable tokens")
    echo: bool | None = Field(None, description="whether the prompt comes before each choice, with its logprobs")
    best_of: int | None = Field(None, description="as many as n")
    suffix: Unsupported = None

    def requests(self) -> list[generation_pb2.GenerateRequest]:
        """Return a request for each choice of each prompt. Raises ServiceError."""
        if self.best_of not in (None, self.num_choices):
            raise unsupported("best_of", "best_of is not supported, unless it is n")
        prompts = self._prompts()
        if not 1 <= len(prompts) * self.num_choices <= _MOST_PROMPTS:
            sentence = f"1 to {_MOST_PROMPTS} choices of all prompts together are served, not {len(prompts)}"
            raise invalid_argument("EMPTY_PROMPT" if not prompts else "INVALID_REQUEST", "prompt", sentence)
        draw, requests = draw_seed(), []
        for prompt in prompts:
            request = generation_pb2.GenerateRequest(max_tokens=num_tokens(self.max_tokens, _MAX_TOKENS))
            if isinstance(prompt, str):
                request.text = prompt
            else:
                request.tokens.tokens.extend(prompt)
            self.fill(request)
            if self.logprobs is not None:
                request.num_log_probabilities = self.logprobs
                if self.echo:
                    request.num_prompt_log_probabilities = self.logprobs
            requests += choices_of(request, self.num_choices, draw)
        return requests

    def _prompts(self) -> Sequence[str | list[int]]:
        # All of one kind: it is not asked of each of a million ids.
        is_one = _kind(self.prompt) in ("text", "tokens")
        return cast(Sequence[str | list[int]], [self.prompt] if is_one and self.prompt != [] else self.prompt)


class Completion(OpenAIAnswer):
    """An answer with texts."""

    def __init__(self, served: Served, asked: CompletionRequest, requests: Requests, echoed: Sequence[str]) -> None:
        """`echoed` are the texts before all choices; none where prompts come with log-probabilities, or not at all."""
        super().__init__(served, asked, requests, prefix="cmpl", kind="text_completion")
        self._echoed = echoed
        self._log_probabilities: list[CompletionLogProbabilities] = []
        if asked.logprobs is not None:
            texts = TokenTexts(served.backend.target.served)
            self._log_probabilities = [CompletionLogProbabilities(texts, asked.logprobs) for _ in requests]

    def whole(self, answers: list[Answer]) -> dict[str, Any]:
        """Return a whole answer."""
        choices = []
        for index, answer in enumerate(answers):
            before = self._echoed[index] if self._echoed else "".join(token.text for token in answer.prompt)
            choice = self._choice(index, before + answer.text, [*answer.prompt, *answer.tokens])
            choices.append(choice | {"finish_reason": finish_reason(answer.summary)} | reports(answer.chunks))
        return self.complete(answers, choices)

    def begin(self) -> bytes:
        """Return an event with each prompt that is echoed; else an answer begins with its text."""
        return b"".join(self.event([self._choice(index, text, ())]) for index, text in enumerate(self._echoed))

    def prompt(self, index: int, report: generation_pb2.PromptReport) -> bytes:
        """Return an event with tokens of a prompt."""
        return self.event([self._choice(index, "".join(token.text for token in report.tokens), report.tokens)])

    def chunk(self, index: int, chunk: generation_pb2.GenerateChunk) -> bytes:
        """Return an event with the text of a chunk, nothing where there is none."""
        report = reports([chunk])
        if not chunk.text and not report and not (self._log_probabilities and chunk.tokens):
            return b""
        return self.event([self._choice(index, chunk.text, chunk.tokens) | report])

    def ended(self, index: int, finish_reason: str) -> dict[str, Any]:
        """Return a choice without text."""
        return self._choice(index, "", ()) | {"finish_reason": finish_reason}

    def _choice(self, index: int, text: str, tokens: AnyTokens) -> dict[str, Any]:
        told = self._log_probabilities[index].tell(tokens) if self._log_probabilities and tokens else None
        return {"index": index, "text": text, "logprobs": told, "finish_reason": None}


def completion_routes(served: Served) -> APIRouter:
    """Return the route of completions."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post(_PATH, summary="Text that goes on from a prompt", tags=["openai"])
    async def complete(asked: CompletionRequest, request: Request) -> Response:
        served.model(asked.model)
        requests = asked.requests()
        echoed = [await _text_of(served, each) for each in requests] if asked.echo and asked.logprobs is None else []
        generations = served.generations(request, requests, _NAMES)
        completion = Completion(served, asked, requests, echoed)
        if asked.stream:
            return EventStream(generations, completion)
        return JSONResponse(completion.whole(await unless_gone(request.receive, generations.collect())))

    return routes


async def _text_of(served: Served, request: generation_pb2.GenerateRequest) -> str:
    """Return a prompt as a text. Raises ServiceError."""
    if request.WhichOneof("prompt") == "text":
        return request.text
    await served.backend.target.ready()
    tokens = target_pb2.DetokenizeRequest(tokens=request.tokens.tokens)
    reply = await of_target(served.backend.target.stub.Detokenize(tokens), {"tokens": "prompt"})
    return reply.text.decode(errors="replace")
