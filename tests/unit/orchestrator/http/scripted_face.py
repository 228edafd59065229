"""The HTTP face in front of a service that answers as a test says, called in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import httpx2

from orchestrator.generation.service import Load
from orchestrator.http.app import create_app
from orchestrator.http.served import Served
from orchestrator.peers.pair import ServedModel
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2, generation_pb2, target_pb2
from services.frame.program.api_keys import ApiKeys
from services.frame.rpc.handlers import HandlerRegistry
from services.frame.telemetry import Telemetry

TEXTS = ("Hello", " world", "!", "\n", "€")


def token_table() -> list[common_pb2.TokenEntry]:
    """A vocabulary: some texts, then two halves of a character, then a control token."""
    entries = [common_pb2.TokenEntry(text=text, output=text.encode()) for text in TEXTS]
    halves = "é".encode()
    entries += [common_pb2.TokenEntry(text=f"<0x{byte:02X}>", output=bytes([byte])) for byte in halves]
    control = common_pb2.TokenEntry(
        text="<end>", attribute=common_pb2.TOKEN_ATTRIBUTE_CONTROL, is_end_of_generation=True
    )
    return [*entries, control]


MODEL = common_pb2.ModelInfo(
    name="big",
    context_length=512,
    vocabulary_size=len(TEXTS) + 3,
    numerics_fingerprint="0123456789abcdef0123",
    max_draft_tokens=16,
    num_slots=4,
    num_parameters=7,
    model_bytes=14,
)


def chunk(*texts: str, content: str | None = None, reasoning: str = "") -> generation_pb2.GenerateChunk:
    """What one cycle commits: tokens with these texts. In a chat their text is said, unless it is told otherwise."""
    text = "".join(texts)
    made = generation_pb2.GenerateChunk(text=text, content=text if content is None else content, reasoning=reasoning)
    for each in texts:
        made.tokens.add(token=TEXTS.index(each) if each in TEXTS else 0, text=each)
    return made


def summary(**fields: Any) -> generation_pb2.GenerateSummary:
    """The summary of a generation of 4 tokens, 2 of them drafted and accepted, of 3 draft tokens in 2 cycles.

    Of the prompt of 5 tokens, one was cached.
    """
    values: dict[str, Any] = {
        "finish_reason": generation_pb2.FINISH_REASON_END_OF_GENERATION,
        "usage": generation_pb2.Usage(
            num_prompt_tokens=5, num_generated_tokens=4, num_cached_prompt_tokens=1, num_reasoning_tokens=3
        ),
        "timings": generation_pb2.GenerationTimings(first_token_ms=20, total_ms=50, target_queued_ms=2),
        "speculation": generation_pb2.SpeculationStatistics(
            num_cycles=2,
            num_drafts=2,
            num_draft_tokens=3,
            num_accepted_tokens=2,
            num_accepted_per_position=[1, 1],
            drafters=[
                generation_pb2.DrafterStatistics(
                    drafter=generation_pb2.DRAFTER_REMOTE, num_drafts=2, num_draft_tokens=3, num_accepted_tokens=2
                )
            ],
        ),
        "exact": True,
        "seed": 7,
        "trace_id": "",
    }
    return generation_pb2.GenerateSummary(**{**values, **fields})


def told_of(request: generation_pb2.GenerateRequest) -> list[tuple[str, str, str]]:
    """The messages of a chat: who says what after which thought; parts of a content with bars between."""
    return [(each.role, "|".join(each.content_parts) or each.content, each.reasoning) for each in request.chat.messages]


Step = (
    generation_pb2.GenerateResponse
    | generation_pb2.GenerateChunk
    | generation_pb2.GenerateSummary
    | Exception
    | Awaitable[object]
)
Script = Callable[[generation_pb2.GenerateRequest], Sequence[Step | Callable[[], Awaitable[object]]]]


def usual_script(request: generation_pb2.GenerateRequest) -> Sequence[Step]:
    """Two chunks and a summary with the request's seed."""
    seed = request.seed if request.HasField("seed") else 7
    return [chunk("Hello", " world"), chunk("!"), summary(seed=seed)]


@dataclass
class ScriptedService:
    """Answers each request by its script: sends messages, raises errors, calls what a test wants to happen."""

    script: Script = usual_script
    requests: list[generation_pb2.GenerateRequest] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    num_active: int = 0
    num_cancelled: int = 0
    is_available: bool = True
    reason: str = "the target service is away"
    busy: Load = field(default_factory=lambda: Load("big", 0, 0))

    async def generate(self, request: generation_pb2.GenerateRequest, headers: Any, send: Any) -> None:
        self.requests.append(request)
        self.headers.append(headers)
        self.num_active += 1
        try:
            for step in self.script(request):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, generation_pb2.GenerateResponse):
                    await send(step)
                elif isinstance(step, generation_pb2.GenerateChunk):
                    await send(generation_pb2.GenerateResponse(chunk=step))
                elif isinstance(step, generation_pb2.GenerateSummary):
                    await send(generation_pb2.GenerateResponse(summary=step))
                else:
                    await cast(Callable[[], Awaitable[object]], step)()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        finally:
            self.num_active -= 1

    async def load(self) -> Load:
        return self.busy

    def status(self) -> generation_pb2.GetStatusResponse:
        target = generation_pb2.ServiceStatus(
            is_available=self.is_available,
            reason="" if self.is_available else self.reason,
            model=MODEL,
        )
        return generation_pb2.GetStatusResponse(target=target)


class ScriptedTexts:
    """The target's texts: one token a word; a chat is its messages, one a line."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def Tokenize(self, request: target_pb2.TokenizeRequest) -> target_pb2.TokenizeResponse:
        self.asked.append(request)
        return target_pb2.TokenizeResponse(tokens=[0] * request.add_bos + [1] * len(request.text.split()))

    async def Detokenize(self, request: target_pb2.DetokenizeRequest) -> target_pb2.DetokenizeResponse:
        self.asked.append(request)
        return target_pb2.DetokenizeResponse(text=b"".join(token_table()[token].output for token in request.tokens))

    async def ApplyChatTemplate(
        self, request: target_pb2.ApplyChatTemplateRequest
    ) -> target_pb2.ApplyChatTemplateResponse:
        self.asked.append(request)
        contents = ("".join(each.content_parts) or each.content for each in request.messages)
        text = "".join(f"{each.role}: {said}\n" for each, said in zip(request.messages, contents, strict=True))
        return target_pb2.ApplyChatTemplateResponse(text=text, tokens=[1] * len(text.split()))


@dataclass
class Face:
    """The application, what it is in front of, and a client."""

    service: ScriptedService
    texts: ScriptedTexts
    registry: HandlerRegistry
    served: Served
    app: Any
    client: httpx2.AsyncClient

    async def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        return await self.client.post(path, json=body, headers=headers)


def make_face(
    script: Script = usual_script,
    keys: ApiKeys | None = None,
    telemetry: Telemetry | None = None,
    **settings: Any,
) -> Face:
    """The face of a scripted service, which asks for keys where some are given."""
    service, texts, registry = ScriptedService(script), ScriptedTexts(), HandlerRegistry()
    registry.is_open = True
    server: Any = SimpleNamespace(counting=registry.counting, draining=asyncio.Event(), wait="", keys=keys)
    server.telemetry = telemetry or Telemetry.off()
    model = ServedModel(MODEL, token_table())

    async def ready() -> ServedModel:
        return model

    target = SimpleNamespace(served=model, stub=texts, ready=ready, model=MODEL)
    backend: Any = SimpleNamespace(target=target, drafts=[])
    backend.models = lambda: {"target": target, "big": target} | dict(zip(["draft"], backend.drafts, strict=False))
    served = Served(OrchestratorSettings(**settings), server, backend, cast(Any, service))
    app = create_app(served)
    # An exception that gets out of the application is a test's failure.
    transport = httpx2.ASGITransport(app=app)
    return Face(service, texts, registry, served, app, httpx2.AsyncClient(transport=transport, base_url="http://face"))


@asynccontextmanager
async def face(
    script: Script = usual_script,
    keys: ApiKeys | None = None,
    telemetry: Telemetry | None = None,
    **settings: Any,
) -> AsyncIterator[Face]:
    """The face of a scripted service, with a client that is closed at the end."""
    made = make_face(script, keys, telemetry, **settings)
    async with made.client:
        yield made
