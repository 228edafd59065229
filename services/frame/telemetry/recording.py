"""What records spans where tracing is on: the SDK's provider, and spans of our own that are cheap.

A cycle makes five spans. A span of the SDK takes a lock and copies what it is given at every step, makes objects of its
ids, and asks a sampler that can only follow the parent. Ours keeps what it is given as it is: ids as the text that goes
over the wire, events as tuples. Another thread makes of them what the SDK wants, and hands them over.
"""

import asyncio
import random
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, MutableMapping, Sequence, Sized
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from functools import cached_property
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    Event,
    ReadableSpan,
    SpanLimits,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util import types

from services.frame.rpc.errors import error_type, full_name
from services.frame.telemetry.telemetry import (
    NO_HEADERS,
    TraceHeaders,
    UnsampledSpan,
    context_from,
    headers_of,
    read_tracestate,
)

SCOPE = "outrider"
# How long a finished span waits for the thread that hands it over.
HAND_OVER_S = 0.5
# As our own services write it. A header that is valid in another way goes to the SDK.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-3]")
_TRACE_ID, _SPAN_ID, _FLAGS = slice(3, 35), slice(36, 52), slice(53, 55)
# The headers of the span that a task is in, the parent of whatever begins there; empty where there is none.
_above: ContextVar[TraceHeaders] = ContextVar("above", default=NO_HEADERS)
# Kinds of OpenInference, https://arize-ai.github.io/openinference/spec/. Phoenix and MLflow count and judge each LLM as
# an answer of a model, with its texts, tokens and price: of a request there is one, whatever its cycles do.
_ANSWER: dict[str, types.AnyValue] = {"openinference.span.kind": "LLM"}
_PART: dict[str, types.AnyValue] = {"openinference.span.kind": "CHAIN"}
_UNSET = Status(StatusCode.UNSET)


class Recorder:
    """Begins the spans of one service and hands the finished ones to processors of the SDK."""

    def __init__(
        self, resource: Resource, processors: Sequence[SpanProcessor], *, is_parent_taken: bool = True
    ) -> None:
        """Take the sampler and the limits from the standard variables. Raises ValueError where they say nonsense.

        Without `is_parent_taken` our spans are no children of our callers'.
        """
        self._is_parent_taken = is_parent_taken
        self.resource = _HashedResource(resource.attributes, resource.schema_url)
        self.scope = InstrumentationScope(SCOPE)
        self._processor = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]  # the SDK's own gap
        for processor in processors:
            self._processor.add_span_processor(processor)
        self._provider = TracerProvider(
            resource=self.resource, active_span_processor=self._processor, shutdown_on_exit=False
        )
        self._tracer = self._provider.get_tracer(SCOPE)
        self._limits = SpanLimits()
        self._is_parent_followed = isinstance(self._provider.sampler, ParentBased)
        self.finished: deque[LightSpan] = deque()
        self._handing_over = threading.Lock()
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_handing_over, daemon=True)
        self._thread.start()

    def request(self, name: str, headers: TraceHeaders) -> AbstractContextManager[trace.Span]:
        """Begin the span of a client's request: one of the SDK's, whose limits hold for what clients write."""
        return self._begin(name, SpanKind.SERVER, self._parent_of(headers), _ANSWER)

    def message(self, name: str, headers: TraceHeaders) -> AbstractContextManager[trace.Span]:
        """Begin the span of a message that a service got from another."""
        if self._is_parent_taken and self._is_parent_followed and _TRACEPARENT.fullmatch(headers.traceparent):
            valid = TraceHeaders(headers.traceparent, read_tracestate(headers.tracestate).to_header())
            return self._beneath(valid, name, SpanKind.SERVER)
        return self._begin(name, SpanKind.SERVER, self._parent_of(headers), _PART)

    def child(self, name: str, kind: SpanKind) -> AbstractContextManager[trace.Span]:
        """Begin a span under the one that the running task is in."""
        above = _above.get()
        if above.traceparent:
            return self._beneath(above, name, kind)
        return self._begin(name, kind, None, _PART)

    def flush(self) -> None:
        """Send every span that has ended by now."""
        self._hand_over()
        self._provider.force_flush()

    def shutdown(self) -> None:
        """Send what is still queued and stop the exporters."""
        self._has_ended.set()
        self._hand_over()
        self._provider.shutdown()

    def _keep_handing_over(self) -> None:
        while not self._has_ended.wait(HAND_OVER_S):
            self._hand_over()

    def _hand_over(self) -> None:
        with self._handing_over:
            while self.finished:
                span = self.finished.popleft()
                span.limit(self._limits)
                self._processor.on_end(span)

    def _parent_of(self, headers: TraceHeaders) -> Context:
        return context_from(headers if self._is_parent_taken else NO_HEADERS)

    def _begin(
        self, name: str, kind: SpanKind, parent: Context | None, attributes: types.Attributes
    ) -> AbstractContextManager[trace.Span]:
        return _Current(self._tracer.start_span(name, parent, kind, attributes))

    def _beneath(self, parent: TraceHeaders, name: str, kind: SpanKind) -> AbstractContextManager[trace.Span]:
        if parent.traceparent[-1] in "02":
            return _Unsampled(parent)
        return LightSpan(self, name, kind, parent)


class LightSpan(ReadableSpan, trace.Span):
    """A cheap span: only one thread writes to it, and nobody after its end. What it is given is few and well formed.

    As a context manager it ends with the block, and is the parent of what begins in the block, unless it is a client's:
    what happens there is the server's.
    """

    def __init__(self, recorder: Recorder, name: str, kind: SpanKind, parent: TraceHeaders) -> None:
        """Begin now, as a child of the span whose headers `parent` are."""
        # Everything that ReadableSpan's own constructor sets, but for the properties below.
        self._recorder = recorder
        self._name = name
        self._kind = kind
        self.parent_headers = parent
        above = parent.traceparent
        self.headers = TraceHeaders(f"{above[:36]}{random.getrandbits(64) or 1:016x}{above[52:]}", parent.tracestate)
        self._attributes: MutableMapping[str, types.AnyValue] = dict(_PART)
        self.told: list[tuple[str, types.Attributes, int]] = []
        self._num_dropped_events = 0
        self._links = ()
        self._status = _UNSET
        self._start_time = time.time_ns()

    def __enter__(self) -> Self:
        if self._kind is not SpanKind.CLIENT:
            self._token: Token[TraceHeaders] = _above.set(self.headers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        if self._kind is not SpanKind.CLIENT:
            _above.reset(self._token)
        if error is not None:
            _tell(self, error)
        self.end()

    @cached_property
    def _context(self) -> SpanContext:  # type: ignore[override]
        return _span_context(self.headers, is_remote=False)

    @cached_property
    def _parent(self) -> SpanContext:  # type: ignore[override]
        return _span_context(self.parent_headers, is_remote=self._kind is SpanKind.SERVER)

    @property
    def _resource(self) -> Resource:  # type: ignore[override]
        return self._recorder.resource

    @property
    def _instrumentation_scope(self) -> InstrumentationScope:  # type: ignore[override]
        return self._recorder.scope

    @property
    def dropped_events(self) -> int:
        """How many events were dropped, as they were more than the limit."""
        return self._num_dropped_events

    def limit(self, limits: SpanLimits) -> None:
        """Drop what is beyond the limits, as the SDK does with its spans: the oldest first. To be called once."""
        count, length = limits.max_span_attributes, limits.max_span_attribute_length
        if length is not None or _exceeds(self._attributes, count):
            self._attributes = BoundedAttributes(count, self._attributes, max_value_len=length)
        if _exceeds(self.told, limits.max_events):
            self._num_dropped_events = len(self.told) - (limits.max_events or 0)
            del self.told[: self._num_dropped_events]
        count, length = limits.max_event_attributes, limits.max_attribute_length
        self.told = [
            (name, BoundedAttributes(count, attributes, max_value_len=length), time_ns)
            if attributes and (length is not None or _exceeds(attributes, count))
            else (name, attributes, time_ns)
            for name, attributes, time_ns in self.told
        ]

    @cached_property
    def _events(self) -> list[Event]:  # type: ignore[override]
        return [Event(*told) for told in self.told]

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        """Return True: it is not asked after its end."""
        return True

    def set_attribute(self, key: str, value: types.AnyValue) -> None:
        self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, types.AnyValue]) -> None:
        self._attributes.update(attributes)

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        """Add an event, now or at a time in nanoseconds since 1970."""
        self.told.append((name, attributes, timestamp or time.time_ns()))

    def update_name(self, name: str) -> None:
        self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        self._status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an exception as an event, without its stack."""
        self.add_event("exception", _described(exception) | dict(attributes or {}), timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End the span, now or at a time in nanoseconds since 1970, and hand it over."""
        self._end_time = time.time_ns() if end_time is None else end_time
        self._recorder.finished.append(self)


class _Unsampled(UnsampledSpan):
    """Stands for a span of a trace that is not sampled: nothing that begins in its block is recorded."""

    def __enter__(self) -> Self:
        self._token: Token[TraceHeaders] = _above.set(self.headers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        _above.reset(self._token)


class _Current(AbstractContextManager[trace.Span]):
    """Makes a span of the SDK the current one for a block, and ends it with the block."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def __enter__(self) -> trace.Span:
        self._tokens: tuple[Token[Context], Token[TraceHeaders]] = (
            attach(trace.set_span_in_context(self._span)),
            _above.set(headers_of(self._span)),
        )
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        of_context, of_parent = self._tokens
        _above.reset(of_parent)
        detach(of_context)
        if error is not None:
            _tell(self._span, error)
        self._span.end()


class _HashedResource(Resource):
    """A resource that is hashed once: exporters ask for the hash with every span, and the SDK writes JSON for it."""

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def _tell(span: trace.Span, error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        # Nothing went wrong: nobody waits for the answer any more.
        span.add_event("outrider.cancelled")
        return
    span.set_attribute("error.type", error_type(error))
    # Not by the SDK's record_exception, which sends the stack too.
    span.add_event("exception", _described(error))
    span.set_status(StatusCode.ERROR, str(error))


def _described(error: BaseException) -> dict[str, types.AnyValue]:
    return {"exception.type": full_name(type(error)), "exception.message": str(error)}


def _exceeds(items: Sized, most: int | None) -> bool:
    return most is not None and len(items) > most


def ids_of(traceparent: str) -> tuple[bytes, bytes]:
    """Return the ids of a traceparent of version 00: of the trace, 16 bytes, and of the span, 8."""
    return bytes.fromhex(traceparent[_TRACE_ID]), bytes.fromhex(traceparent[_SPAN_ID])


def _span_context(headers: TraceHeaders, *, is_remote: bool) -> SpanContext:
    traceparent = headers.traceparent
    return SpanContext(
        int(traceparent[_TRACE_ID], 16),
        int(traceparent[_SPAN_ID], 16),
        is_remote,
        TraceFlags(int(traceparent[_FLAGS], 16)),
        read_tracestate(headers.tracestate),
    )
