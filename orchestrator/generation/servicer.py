"""GenerationService: checks requests, opens a session with each service, streams what is generated."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import grpc
from opentelemetry import trace

from orchestrator.generation.ahead import running_ahead
from orchestrator.generation.answer import Answer, marker_spellings
from orchestrator.generation.generation import Generation, draw_seed
from orchestrator.generation.instruments import GenerationInstruments
from orchestrator.generation.request_span import RequestSpan, request_attributes, span_name
from orchestrator.generation.speculation import DRAFTERS, check_speculation, plan_speculation
from orchestrator.generation.statistics import Statistics
from orchestrator.generation.text import TextStream
from orchestrator.peers.backend import Backend
from orchestrator.peers.target import is_too_large, target_unavailable, too_large
from orchestrator.settings import OrchestratorSettings
from outrider.v1 import common_pb2, generation_pb2, generation_pb2_grpc, target_pb2
from services.frame.program.version import VERSION
from services.frame.rpc.errors import ServiceError, error_from_rpc, invalid_argument, is_from_server
from services.frame.rpc.handlers import RpcContext
from services.frame.rpc.limits import MAX_LOG_PROBABILITIES, most_tokens
from services.frame.telemetry.spans import request_span
from services.frame.telemetry.telemetry import Telemetry, TraceHeaders
from services.session.sequence import TokenSequence

_MAX_STOP_STRINGS = 64
# Chunks that a slow client has not taken before the generation waits for it.
_MAX_CHUNKS_AHEAD = 8
_LONG_PROMPT = 8192


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """Serves clients with one backend."""

    def __init__(self, settings: OrchestratorSettings, backend: Backend, telemetry: Telemetry) -> None:
        self._settings = settings
        self._backend = backend
        self._telemetry = telemetry
        self._num_active = 0
        self._statistics = Statistics()
        self._instruments = GenerationInstruments(telemetry, lambda: self._num_active, backend.draft_overhead)

    async def Generate(  # type: ignore[override]  # replies are written to the context
        self, request: generation_pb2.GenerateRequest, context: RpcContext
    ) -> None:
        """Stream text, then a summary."""
        started_s = time.perf_counter()
        seed = request.seed if request.HasField("seed") else draw_seed()
        sampling = common_pb2.Sampling()
        sampling.CopyFrom(request.sampling)
        sampling.seed = seed
        headers = TraceHeaders.of_metadata(context.invocation_metadata())
        # As it was last seen: where the target is away, the request waits for it, and perhaps in vain.
        model = self._backend.target.served.info
        with (
            self._instruments.request(request_attributes(request, model)) as counted,
            request_span(self._telemetry, span_name(request, model), headers) as span,
            self._active(),
        ):
            target_model = await self._backend.target.ready()
            told = RequestSpan(span, is_content_told=self._telemetry.is_content_told)
            told.ask(request, target_model.info, seed)
            _check(request, target_model.info)
            most = self._most_tokens(sampling, target_model.info)
            prompt, form = await self._prompt(request, most)
            target = self._backend.open_target(
                sampling,
                num_log_probabilities=request.num_log_probabilities
                if request.HasField("num_log_probabilities")
                else None,
                require_exact=request.require_exact,
            )
            plan = plan_speculation(request.speculation, self._settings)
            drafter = self._backend.open_drafter(sampling, plan.drafter, min_joint_confidence=plan.min_joint_confidence)
            generation = Generation(
                await _sequence(prompt),
                target,
                drafter,
                TextStream(target_model.token_bytes, request.stop),
                policy=plan.policy,
                max_tokens=request.max_tokens,
                context_length=most,
                telemetry=self._backend.telemetry,
                stop_tokens=request.stop_tokens,
                answer=Answer(form, marker_spellings(form, target_model.silent_spellings))
                if form is not None
                else None,
                started_s=started_s,
            )
            try:
                # The next cycle does not wait for a chunk to be written.
                async with running_ahead(generation.chunks(), _MAX_CHUNKS_AHEAD) as chunks:
                    async for chunk in chunks:
                        told.answer(chunk)
                        await self._send(context, generation_pb2.GenerateResponse(chunk=chunk))
                summary = generation.summary(seed, _trace_id(span), is_same_target=target.is_same_model)
                told.end(summary)
                counted.answer(summary)
                await self._send(context, generation_pb2.GenerateResponse(summary=summary))
            finally:
                self._statistics.add(generation.statistics)
                self._instruments.record(generation.statistics, generation.num_generated_tokens)
                if self._backend.draft is not None:
                    self._backend.draft.note_problem(drafter.problem)
                await target.close()
                await drafter.close()

    async def GetStatus(
        self, request: generation_pb2.GetStatusRequest, context: RpcContext
    ) -> generation_pb2.GetStatusResponse:
        """Return the state of the orchestrator and its services."""
        backend, settings = self._backend, self._settings
        usual = DRAFTERS[settings.drafter] if settings.num_draft_tokens else generation_pb2.DRAFTER_NONE
        return generation_pb2.GetStatusResponse(
            target=backend.target.status(),
            draft=backend.draft.status() if backend.draft is not None else None,
            num_active=self._num_active,
            speculation=self._statistics.to_message(),
            version=VERSION,
            drafter=backend.usual_drafter(usual),
        )

    async def _send(self, context: RpcContext, message: generation_pb2.GenerateResponse) -> None:
        """Send a message. Raises ServiceError where the client leaves too much unread for too long."""
        limit_s = self._settings.unread_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await context.write(message)
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

    def _most_tokens(self, sampling: common_pb2.Sampling, info: common_pb2.ModelInfo) -> int:
        """Return how long a sequence may get: a slot holds no more, or a message with the whole of it."""
        num_bytes = self._settings.max_message_bytes - sampling.ByteSize()
        return min(info.context_length, most_tokens(num_bytes, info.vocabulary_size))

    async def _prompt(
        self, request: generation_pb2.GenerateRequest, most: int
    ) -> tuple[Sequence[int], target_pb2.AnswerFormat | None]:
        """Return the prompt's ids, and for a chat how its answer is parted."""
        if len(request.chat.messages) >= most:
            raise _prompt_too_long(len(request.chat.messages), most)
        try:
            tokens, form = await self._tokenize(request, most - 1)
        except grpc.aio.AioRpcError as error:
            refusal = error_from_rpc(error)
            # A message that is too long is refused by gRPC, anything else that is not the target's word by a proxy.
            is_final = is_from_server(error) or refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            if refusal.code is grpc.StatusCode.UNAVAILABLE or not is_final:
                refusal = target_unavailable(f"the target is away: {refusal.message}")
            elif is_too_large(refusal):
                refusal = too_large(refusal)
            raise _of_prompt(refusal, request) from error
        if not tokens:
            raise invalid_argument("EMPTY_PROMPT", _prompt_field(request), "the prompt has no tokens")
        if len(tokens) >= most:
            raise _prompt_too_long(len(tokens), most)
        return tokens, form

    async def _tokenize(
        self, request: generation_pb2.GenerateRequest, most: int
    ) -> tuple[Sequence[int], target_pb2.AnswerFormat | None]:
        stub = self._backend.target.stub
        match request.WhichOneof("prompt"):
            case "tokens":
                return request.tokens.tokens, None
            case "chat":
                rendered = await stub.ApplyChatTemplate(
                    target_pb2.ApplyChatTemplateRequest(
                        messages=request.chat.messages,
                        add_generation_prompt=True,
                        template_variables=request.chat.template_variables,
                        template_name=request.chat.template_name,
                        max_tokens=most,
                    )
                )
                return rendered.tokens, rendered.answer_format
            case _:
                text = target_pb2.TokenizeRequest(text=request.text, add_bos=True, max_tokens=most)
                return (await stub.Tokenize(text)).tokens, None


def _prompt_field(request: generation_pb2.GenerateRequest) -> str:
    """Return the path of the field that holds the prompt, or that of the choice among them where there is none."""
    paths = {"text": "text", "chat": "chat.messages", "tokens": "tokens.tokens"}
    return paths.get(request.WhichOneof("prompt") or "", "prompt")


def _of_prompt(refusal: ServiceError, request: generation_pb2.GenerateRequest) -> ServiceError:
    """Return what the target refused of a prompt, with the paths that its fields have in the request."""
    if request.HasField("chat"):
        violations = refusal.field_violations
        refusal.field_violations = tuple(replace(each, field=f"chat.{each.field}") for each in violations)
    return refusal


def _prompt_too_long(num_tokens: int, most: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.OUT_OF_RANGE,
        "PROMPT_TOO_LONG",
        f"the prompt has {num_tokens} tokens, the context of {most} leaves no room for more",
    )


async def _sequence(prompt: Sequence[int]) -> TokenSequence:
    """Take the digests of a prompt, of a long one in a thread: they are a second of work for a million tokens."""
    if len(prompt) < _LONG_PROMPT:
        return TokenSequence(prompt)
    return await asyncio.to_thread(TokenSequence, prompt)


def _check(request: generation_pb2.GenerateRequest, info: common_pb2.ModelInfo) -> None:
    """Raise ServiceError for a request that cannot be served."""
    if not (request.text or request.chat.messages or request.tokens.tokens):
        raise invalid_argument("EMPTY_PROMPT", _prompt_field(request), "a prompt is needed")
    if (most := max(request.tokens.tokens, default=0)) >= info.vocabulary_size:
        raise invalid_argument(
            "TOKEN_OUT_OF_RANGE",
            "tokens.tokens",
            f"token {most} is outside the vocabulary of {info.vocabulary_size} ids",
        )
    if len(request.stop) > _MAX_STOP_STRINGS or not all(request.stop):
        raise invalid_argument(
            "INVALID_REQUEST", "stop", f"at most {_MAX_STOP_STRINGS} stop strings are taken, none of them empty"
        )
    if len(request.stop_tokens) > _MAX_STOP_STRINGS:
        raise invalid_argument("INVALID_REQUEST", "stop_tokens", f"at most {_MAX_STOP_STRINGS} stop tokens are taken")
    if max(request.stop_tokens, default=0) >= info.vocabulary_size:
        raise invalid_argument(
            "TOKEN_OUT_OF_RANGE",
            "stop_tokens",
            f"token {max(request.stop_tokens)} is outside the vocabulary of {info.vocabulary_size} ids",
        )
    if request.max_tokens < 1:
        raise invalid_argument("INVALID_REQUEST", "max_tokens", "ask for at least one token")
    if request.num_log_probabilities > MAX_LOG_PROBABILITIES:
        raise invalid_argument(
            "INVALID_REQUEST", "num_log_probabilities", f"at most {MAX_LOG_PROBABILITIES} can be asked for"
        )
    if len(request.sampling.logit_bias) > info.vocabulary_size:
        raise invalid_argument("INVALID_SAMPLING", "sampling.logit_bias", "it has more tokens than the vocabulary")
    check_speculation(request.speculation, info)
    if request.require_exact and info.exact_mode == common_pb2.EXACT_MODE_OFF:
        raise ServiceError(
            grpc.StatusCode.FAILED_PRECONDITION, "EXACT_UNAVAILABLE", "the target does not run in an exact mode"
        )


def _trace_id(span: trace.Span) -> str:
    context = span.get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""
