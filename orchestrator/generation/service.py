"""What every front serves: opens a session with each service for a request, and hands on what is generated."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

import grpc
from opentelemetry import trace

from orchestrator.drafting.drafter import DRAFTERS, Drafter, FirstDrafter
from orchestrator.generation.answer import Answer, marker_spellings
from orchestrator.generation.cycle import Cycle, FixedLength, LengthPolicy
from orchestrator.generation.cycle_report import cycle_report
from orchestrator.generation.expected_text import read_prediction
from orchestrator.generation.generation import Generation, draw_seed
from orchestrator.generation.instruments import GenerationInstruments
from orchestrator.generation.request import check_alone, check_request, model_unknown, read_prompt, sequence_of
from orchestrator.generation.request_span import RequestSpan, request_attributes, span_name
from orchestrator.generation.speculation import plan_speculation
from orchestrator.generation.statistics import Statistics
from orchestrator.generation.text import TextStream
from orchestrator.peers.backend import Backend
from orchestrator.peers.draft_model import DraftModelSession
from orchestrator.peers.draft_peer import DraftPeer
from orchestrator.peers.pair import ServedModel
from orchestrator.peers.target import TargetSession
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2, generation_pb2
from services.frame.program.version import VERSION
from services.frame.rpc.errors import ServiceError
from services.frame.rpc.limits import most_tokens
from services.frame.telemetry import Telemetry, TraceHeaders, request_span

ItemT = TypeVar("ItemT")
# Hands a message to the client, and returns once there is room for the next.
Send: TypeAlias = Callable[[generation_pb2.GenerateResponse], Awaitable[None]]
# Somebody waits for a page of metrics.
_LOAD_TIMEOUT_S = 1.0
# Chunks that a slow client has not taken before the generation waits for it.
_MAX_CHUNKS_AHEAD = 8


@dataclass(frozen=True)
class Load:
    """Requests that are generated for and those that wait for a slot of the target, or for the target itself.

    `cache_usage` is the share of the target's cache that sessions hold which are not over, None where it is not known.
    """

    model: str
    num_running: int
    num_waiting: int
    cache_usage: float | None = None


class GenerationService:
    """Serves clients of every kind with one backend."""

    def __init__(self, settings: OrchestratorSettings, backend: Backend, telemetry: Telemetry) -> None:
        self._settings = settings
        self._backend = backend
        self._telemetry = telemetry
        self._num_active = 0
        self._statistics = Statistics()
        self._instruments = GenerationInstruments(
            telemetry, lambda: self._num_active, backend.draft_overhead, lambda: backend.experience.speedup
        )

    async def generate(self, request: generation_pb2.GenerateRequest, headers: TraceHeaders, send: Send) -> None:
        """Send text, chunk by chunk, then a summary. Cancelling it frees what it holds.

        Raises ServiceError: the request is refused, a service fails it, or `send` takes too long.
        """
        started_s = time.perf_counter()
        seed = request.seed if request.HasField("seed") else draw_seed()
        sampling = common_pb2.Sampling()
        sampling.CopyFrom(request.sampling)
        sampling.seed = seed
        models = self._backend.models()
        peer = models.get(request.model or "target")
        draft = peer if isinstance(peer, DraftPeer) else None
        # As it was last seen: where the target is away, the request waits for it, and perhaps in vain.
        model = (peer or self._backend.target).model
        with (
            self._instruments.request(request_attributes(request, model)) as counted,
            request_span(self._telemetry, span_name(request, model), headers) as span,
            self._active(),
        ):
            served = await self._backend.target.ready()
            traced = RequestSpan(span, is_content_told=self._telemetry.is_content_told)
            traced.begin(request, served.info if draft is None else model, seed)
            if peer is None:
                raise model_unknown(request.model, models)
            check_request(request, served.info)
            if draft is not None:
                check_alone(request)
                served = draft.alone()
            most = self._most_tokens(sampling, served.info)
            prompt, form = await read_prompt(self._backend.target.stub, request, most)
            self._instruments.record_prompt(len(prompt))
            sequence = await sequence_of(prompt)
            target, drafter, policy = await self._open(request, sampling, draft, len(prompt), most)
            generation = Generation(
                sequence,
                target,
                drafter,
                TextStream(served.token_bytes, request.stop),
                policy=policy,
                max_tokens=request.max_tokens,
                context_length=most,
                telemetry=self._backend.telemetry,
                stop_tokens=request.stop_tokens,
                answer=None
                if form is None
                else Answer(form, marker_spellings(form, served.silent_spellings), request.chat.tools),
                report=self._reporter(served) if request.report_cycles else None,
                started_s=started_s,
            )
            # Every chunk, where the trace is to hold what was answered.
            sent: list[generation_pb2.GenerateChunk] = []
            try:
                if isinstance(target, TargetSession) and request.HasField("num_prompt_log_probabilities"):
                    scorings = target.score(sequence, request.num_prompt_log_probabilities)
                    async with aclosing(generation.prompt_reports(scorings, served.token_bytes)) as reports:
                        async for report in reports:
                            await self._send(send, generation_pb2.GenerateResponse(prompt=report))
                # The next cycle does not wait for a chunk to be written.
                async with running_ahead(self._instruments.paced(generation.chunks()), _MAX_CHUNKS_AHEAD) as chunks:
                    async for chunk in chunks:
                        if traced.is_content_told:
                            sent.append(chunk)
                        await self._send(send, generation_pb2.GenerateResponse(chunk=chunk))
                summary = generation.summary(seed, _trace_id(span), is_same_target=target.is_same_model)
                traced.end(summary, sent, num_tool_calls=generation.num_tool_calls)
                counted.answer(summary)
                await self._send(send, generation_pb2.GenerateResponse(summary=summary))
            finally:
                self._statistics.add(generation.statistics)
                self._instruments.record(generation.statistics, generation.num_generated_tokens)
                await target.close()
                await drafter.close()

    async def load(self) -> Load:
        """Return how busy the orchestrator is, which its target knows in part: where that is away, all wait for it."""
        target = self._backend.target
        found = await target.load(_LOAD_TIMEOUT_S)
        info = target.served.info
        if found is None:
            return Load(info.name, num_running=0, num_waiting=self._num_active)
        num_waiting = min(found.num_waiting, self._num_active)
        most = info.num_slots * info.context_length
        return Load(info.name, self._num_active - num_waiting, num_waiting, found.num_held_tokens / most)

    def status(self) -> generation_pb2.GetStatusResponse:
        """Return the state of the orchestrator and its services."""
        backend, settings = self._backend, self._settings
        drafts = [draft.status() for draft in backend.drafts]
        usual = DRAFTERS[settings.drafter] if settings.max_draft_tokens else generation_pb2.DRAFTER_NONE
        return generation_pb2.GetStatusResponse(
            target=backend.target.status(),
            draft=drafts[0] if drafts else None,
            num_active=self._num_active,
            speculation=self._statistics.to_message(),
            version=VERSION,
            drafter=backend.usual_drafter(usual),
            choice=backend.experience.choice,
            drafts=drafts,
        )

    async def _send(self, send: Send, message: generation_pb2.GenerateResponse) -> None:
        """Send a message. Raises ServiceError where the client leaves too much unread for too long."""
        limit_s = self._settings.unread_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await send(message)
        except TimeoutError as error:
            sentence = f"nothing was read for {limit_s:g} s, so the rest was not generated: read as the text comes"
            raise ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "UNREAD", sentence) from error

    @contextmanager
    def _active(self) -> Iterator[None]:
        self._num_active += 1
        try:
            yield
        finally:
            self._num_active -= 1

    async def _open(
        self,
        request: generation_pb2.GenerateRequest,
        sampling: common_pb2.Sampling,
        draft: DraftPeer | None,
        num_prompt_tokens: int,
        most: int,
    ) -> tuple[TargetSession | DraftModelSession, Drafter, LengthPolicy]:
        """Open sessions of who decides and who drafts; where `draft` answers by itself, nobody drafts."""
        backend = self._backend
        if draft is not None:
            max_length = num_prompt_tokens + request.max_tokens
            return backend.open_draft_model(draft, sampling, max_length=max_length), FirstDrafter(), FixedLength(0)
        plan = plan_speculation(request.speculation, self._settings, backend.experience)
        expected: list[int] = []
        if plan.uses_prediction:
            served = backend.target.served
            expected = await read_prediction(backend.target.stub, request.prediction, served.token_bytes, most)
        target = backend.open_target(
            sampling,
            num_log_probabilities=request.num_log_probabilities if request.HasField("num_log_probabilities") else None,
            require_exact=request.require_exact,
            wants_quotes=request.report_cycles,
        )
        drafter = backend.open_drafter(
            sampling,
            plan.drafter,
            min_joint_confidence=plan.min_joint_confidence,
            expected=expected,
            num_prompt_tokens=num_prompt_tokens,
        )
        return target, drafter, plan.policy

    def _reporter(self, served: ServedModel) -> Callable[[Cycle], generation_pb2.CycleReport]:
        addresses = [draft.address for draft in self._backend.drafts]
        return partial(cycle_report, token_bytes=served.token_bytes, addresses=addresses)

    def _most_tokens(self, sampling: common_pb2.Sampling, info: common_pb2.ModelInfo) -> int:
        """Return how long a sequence may get: a slot holds no more, or a message with the whole of it."""
        num_bytes = self._settings.max_message_bytes - sampling.ByteSize()
        return min(info.context_length, most_tokens(num_bytes, info.vocabulary_size))


def _trace_id(span: trace.Span) -> str:
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


@asynccontextmanager
async def running_ahead(source: AsyncGenerator[ItemT, None], max_ahead: int) -> AsyncIterator[AsyncIterator[ItemT]]:
    """Give the items of `source`, which goes on by itself until `max_ahead` of them wait to be taken.

    An error of the source comes after the items that came before it. Leaving the context ends the source.
    """
    items: asyncio.Queue[ItemT | None] = asyncio.Queue()  # None is the end
    room = asyncio.Semaphore(max_ahead)

    async def fill() -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    await room.acquire()
                    items.put_nowait(item)
        finally:
            items.put_nowait(None)

    async def drain() -> AsyncIterator[ItemT]:
        while (item := await items.get()) is not None:
            room.release()
            yield item
        await filling

    filling = asyncio.create_task(fill())
    try:
        yield drain()
    finally:
        filling.cancel()
        await asyncio.wait([filling])
