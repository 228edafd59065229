"""Between the protocol's messages and the engine: requests are checked here, once, become work, and are answered."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2
from opentelemetry.trace import Span

from outrider.v1 import common_pb2
from services.engine.errors import (
    DecodeError,
    EngineError,
    EngineStoppedError,
    QueueFullError,
    SlotsTakenError,
    WorkCancelledError,
    WorkTimeoutError,
)
from services.engine.sampling import SamplingError, SamplingParams
from services.engine.sampling.params import check_num_suppressed
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.work import Miss, Phase, Prefix, ResultT, Work
from services.frame.rpc.errors import ServiceError, invalid_argument
from services.frame.rpc.handlers import RpcContext
from services.frame.server import FrameServer
from services.frame.telemetry import server_span
from services.session.exchange import Exchange, SessionRequest
from services.session.sequence import DIGEST_SIZE

_RETRY_AFTER_S = 0.1
# What is longer names many tokens, and a caller could have us remember gigabytes of it.
_MOST_REMEMBERED_BYTES = 4096
_STATUS = {
    QueueFullError: (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
    SlotsTakenError: (grpc.StatusCode.RESOURCE_EXHAUSTED, "SLOTS_TAKEN"),
    WorkTimeoutError: (grpc.StatusCode.DEADLINE_EXCEEDED, "TIMEOUT"),
    WorkCancelledError: (grpc.StatusCode.CANCELLED, "CANCELLED"),
    EngineStoppedError: (grpc.StatusCode.UNAVAILABLE, "NOT_READY"),
    DecodeError: (grpc.StatusCode.INTERNAL, "DECODE_FAILED"),
}


class Reply(Protocol):
    """What the replies of both services have in common."""

    request_id: int
    held_length: int

    @property
    def timings(self) -> common_pb2.Timings:
        """Where the time went."""

    @property
    def result(self) -> Any:
        """What the work came to, as a message."""

    @property
    def cache_miss(self) -> common_pb2.CacheMiss:
        """Set instead of a result."""


RequestT = TypeVar("RequestT", bound=SessionRequest)
MessageT = TypeVar("MessageT", bound=Message)
ReplyT = TypeVar("ReplyT", bound=Reply)


def checked_prefix(context: common_pb2.Context, vocabulary_size: int) -> Prefix:
    """Return the prefix that a request builds on. Raises ServiceError where a rule of the protocol is broken."""
    if not context.tokens:
        raise invalid_argument("EMPTY_CONTEXT", "context.tokens", "tokens must not be empty: the last one is evaluated")
    if len(context.cached_digest) != (DIGEST_SIZE if context.cached_length else 0):
        raise invalid_argument(
            "INVALID_DIGEST", "context.cached_digest", f"a digest is {DIGEST_SIZE} bytes, empty for cached_length 0"
        )
    tokens = checked_tokens(context.tokens, "context.tokens", vocabulary_size)
    return Prefix(context.session_id, context.cached_length, context.cached_digest, tokens)


def checked_tokens(tokens: Sequence[int], field: str, vocabulary_size: int) -> list[int]:
    """Return token ids as a list. Raises ServiceError when one is outside the vocabulary."""
    ids = list(tokens)
    if ids and max(ids) >= vocabulary_size:
        raise invalid_argument(
            "TOKEN_OUT_OF_RANGE", field, f"token {max(ids)} is outside the vocabulary of {vocabulary_size} ids"
        )
    return ids


def check_room(context: common_pb2.Context, num_draft_tokens: int, context_length: int) -> None:
    """Raise ServiceError when a slot cannot hold the context and the draft tokens.

    To be asked before the tokens are looked at, of which a message can hold millions.
    """
    num_tokens = context.cached_length + len(context.tokens) + num_draft_tokens
    if num_tokens > context_length:
        raise ServiceError(
            grpc.StatusCode.OUT_OF_RANGE,
            "CONTEXT_TOO_LONG",
            f"context and draft tokens are {num_tokens} tokens, a slot holds {context_length}",
            metadata={"most": str(context_length)},
        )


def checked_sampling(
    sampling: common_pb2.Sampling, vocabulary_size: int, suppressed: frozenset[int] = frozenset()
) -> SamplingParams:
    """Return sampling parameters, under which the ids `suppressed` by the model are never chosen either.

    Raises ServiceError when one is not a number or outside its range.
    """
    data = sampling.SerializeToString()
    if len(data) > _MOST_REMEMBERED_BYTES:
        return _read_sampling(data, vocabulary_size, suppressed)
    return _remembered_sampling(data, vocabulary_size, suppressed)


def _read_sampling(data: bytes, vocabulary_size: int, suppressed: frozenset[int]) -> SamplingParams:
    sampling = common_pb2.Sampling.FromString(data)
    params = SamplingParams(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p if sampling.HasField("top_p") else 1.0,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty if sampling.HasField("repetition_penalty") else 1.0,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        penalty_last_n=sampling.penalty_last_n if sampling.HasField("penalty_last_n") else 64,
        logit_bias=dict(sampling.logit_bias),
        suppressed_tokens=suppressed.union(sampling.suppressed_tokens) if sampling.suppressed_tokens else suppressed,
        seed=sampling.seed,
    )
    try:
        check_num_suppressed(len(sampling.suppressed_tokens))
        params.validate(vocabulary_size)
    except SamplingError as error:
        raise invalid_argument("INVALID_SAMPLING", f"sampling.{error.field}", str(error)) from error
    return params


# All requests of a session carry the same parameters: reading them once is enough.
_remembered_sampling = lru_cache(maxsize=256)(_read_sampling)


def deadline_s(timeout_ms: int) -> float | None:
    """Return the deadline of a request that arrives now, in seconds of `time.perf_counter`; None for no limit."""
    return time.perf_counter() + timeout_ms / 1e3 if timeout_ms else None


class SessionMethod(ABC, Generic[RequestT, MessageT, ReplyT]):
    """A method of a service, over both carriers: the engine does the work of each request of all sessions.

    The subclass says which work that is. It finishes with the message that goes out as the reply's `result`.

    Attributes:
        exchange: holds sessions to the rules of the protocol, whichever carrier their requests come by.
    """

    def __init__(
        self,
        server: FrameServer,
        engine: Engine,
        name: str,
        reply: Callable[..., ReplyT],
        stream_reply: Callable[..., object],
    ) -> None:
        """`name` is the service's and, after a dot, that of the field for requests in a message of the stream.

        `reply` and `stream_reply` are the messages that go out.
        """
        self._server = server
        self._engine = engine
        self._name = name
        self._reply = reply
        self._stream_reply = stream_reply
        self.exchange: Exchange[RequestT, ReplyT] = Exchange(self._answer, self._refuse, engine.release)

    @abstractmethod
    def work(self, request: RequestT) -> Work[MessageT]:
        """Return the work of a request. Raises ServiceError for one that cannot be done."""

    @abstractmethod
    def trace(self, span: Span, result: MessageT) -> None:
        """Put on the server's span what the result says."""

    async def answer(self, request: RequestT) -> ReplyT:
        """Answer a unary call."""
        return await self.exchange.answer(request)

    async def serve(self, context: RpcContext) -> None:
        """Answer the messages of one session's stream until it ends."""
        _, _, field = self._name.partition(".")
        await self.exchange.serve(context, field, self._wrap, self._server.draining)

    async def _answer(self, request: RequestT) -> ReplyT:
        reply = self._reply(request_id=request.request_id)
        with server_span(self._server.cycle_telemetry, self._name, request.context) as span:
            work = self.work(request)
            answer = await run_work(self._engine, work)
            trace_work(span, work, answer)
            fill_reply(reply, work, answer)
            if not isinstance(answer, Miss):
                self.trace(span, answer)
        return reply

    def _refuse(self, request_id: int, status: status_pb2.Status) -> ReplyT:
        return self._reply(request_id=request_id, error=status)

    def _wrap(self, reply: ReplyT) -> object:
        return self._stream_reply(response=reply)


async def run_work(engine: Engine, work: Work[ResultT]) -> ResultT | Miss:
    """Do the work. Raises ServiceError, with the status that tells a caller of it, where the engine did not."""
    try:
        return await engine.run(work)
    except EngineError as error:
        code, reason = _STATUS[type(error)]
        retries = code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
        raise ServiceError(code, reason, str(error), retry_after_s=_RETRY_AFTER_S if retries else None) from error


def fill_reply(reply: Reply, work: Work[MessageT], answer: MessageT | Miss) -> None:
    """Fill in what came of a request: its result, or what is held where that is not the prefix that it builds on."""
    timings = work.timings
    reply.timings.queued_ms = (timings.started_s - timings.submitted_s) * 1e3
    reply.timings.computed_ms = (timings.finished_s - timings.started_s) * 1e3
    reply.timings.decode_ms = timings.decode_s * 1e3
    reply.timings.num_decodes = timings.num_decodes
    reply.timings.batch_rows = timings.batch_rows
    reply.timings.num_cached_tokens = work.num_cached
    reply.timings.turn_ms = timings.turn_s * 1e3
    if isinstance(answer, Miss):
        reply.held_length = reply.cache_miss.held_length = answer.held_length
        reply.cache_miss.held_digest = answer.held_digest
    else:
        reply.held_length = work.held_length
        reply.result.CopyFrom(answer)


def trace_work(span: Span, work: Work[ResultT], answer: ResultT | Miss) -> None:
    """Put the engine's account of the work on the server's span: the queue and the decodes as timed events."""
    if not span.is_recording():
        return
    timings = work.timings
    to_wall_ns = time.time_ns() - time.perf_counter_ns()
    span.add_event("outrider.queued", timestamp=to_wall_ns + int(timings.submitted_s * 1e9))
    if isinstance(answer, Miss):
        span.add_event("outrider.cache_miss", {"outrider.held_length": answer.held_length})
        return
    span.add_event(
        "outrider.decode",
        {
            "outrider.queued_ms": (timings.started_s - timings.submitted_s) * 1e3,
            "outrider.decode_ms": timings.decode_s * 1e3,
            "outrider.num_decodes": timings.num_decodes,
            "outrider.decode_index": timings.decode_index,
            "outrider.batch_rows": timings.batch_rows,
        },
        timestamp=to_wall_ns + int(timings.started_s * 1e9),
    )
    phases_ms = {f"outrider.{phase.name.lower()}_ms": timings.phases_s[phase] * 1e3 for phase in Phase}
    admission_ms = (timings.admitted_s - timings.submitted_s) * 1e3
    span.add_event(
        "outrider.computed",
        {"outrider.admission_ms": admission_ms, **phases_ms},
        timestamp=to_wall_ns + int(timings.finished_s * 1e9),
    )
