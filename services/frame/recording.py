"""What records spans where tracing is on: the SDK's provider, and spans of our own that are cheap.

A cycle makes five spans. One of the SDK's takes a lock and copies what it is given at every step, makes objects of its
ids and asks a sampler that can only follow the parent. Ours keeps what it is given as it is: ids as the text that goes
over the wire, events as tuples. What the SDK wants of them is made in another thread, which hands them over to it.
"""

import asyncio
import random
import re
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util import types

from services.frame.errors import ServiceError
from services.frame.telemetry import UnsampledSpan, context_from_traceparent, traceparent_of

SCOPE = "outrider"
# How long a finished span waits for the thread that hands it over.
HAND_OVER_S = 0.5
# As our own services write it. Whatever else is valid is for the SDK.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-3]")
_TRACE_ID, _SPAN_ID, _FLAGS = slice(3, 35), slice(36, 52), slice(53, 55)
# The traceparent of the span under which a task's children begin, empty where there is none.
_above: ContextVar[str] = ContextVar("above", default="")
_UNSET = Status(StatusCode.UNSET)


class Recorder:
    """Begins the spans of one service and hands the finished ones to processors of the SDK."""

    def __init__(self, resource: Resource, processors: Sequence[SpanProcessor]) -> None:
        """The sampler and the limits are what the standard variables say. Raises ValueError where they say nonsense."""
        self.resource = _HashedResource(resource.attributes, resource.schema_url)
        self.scope = InstrumentationScope(SCOPE)
        self._processor = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]  # the SDK's own gap
        for processor in processors:
            self._processor.add_span_processor(processor)
        self._provider = TracerProvider(
            resource=self.resource, active_span_processor=self._processor, shutdown_on_exit=False
        )
        self._tracer = self._provider.get_tracer(SCOPE)
        self._is_parent_followed = isinstance(self._provider.sampler, ParentBased)
        self.finished: deque[LightSpan] = deque()
        self._handing_over = threading.Lock()
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_handing_over, daemon=True)
        self._thread.start()

    def request(self, name: str, traceparent: str) -> AbstractContextManager[trace.Span]:
        """Begin the span of a client's request. It has all of the SDK's limits: what clients write ends up in it."""
        return _Current(self._tracer.start_span(name, context_from_traceparent(traceparent), SpanKind.SERVER))

    def message(self, name: str, traceparent: str) -> AbstractContextManager[trace.Span]:
        """Begin the span of a message that was received."""
        if self._is_parent_followed and _TRACEPARENT.fullmatch(traceparent):
            return self._beneath(traceparent, name, SpanKind.SERVER)
        return self.request(name, traceparent)

    def child(self, name: str, kind: SpanKind) -> AbstractContextManager[trace.Span]:
        """Begin a span under the one of the running task."""
        if traceparent := _above.get():
            return self._beneath(traceparent, name, kind)
        return _Current(self._tracer.start_span(name, kind=kind))

    def flush(self) -> None:
        """Send what is finished now."""
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
                self._processor.on_end(self.finished.popleft())

    def _beneath(self, traceparent: str, name: str, kind: SpanKind) -> AbstractContextManager[trace.Span]:
        if traceparent[-1] in "02":
            return _Unsampled(traceparent)
        return LightSpan(self, name, kind, traceparent)


class LightSpan(ReadableSpan, trace.Span):
    """A span that one thread writes, and not after its end. Its attributes and events are few and well formed.

    As a context manager it runs the block and ends. It is the parent of what begins in the block, but for a client's:
    what happens there is the server's.
    """

    def __init__(self, recorder: Recorder, name: str, kind: SpanKind, parent: str) -> None:
        """`parent` is its traceparent."""
        # All that ReadableSpan sets and that has no property below.
        self._recorder = recorder
        self._name = name
        self._kind = kind
        self.parent_traceparent = parent
        self.traceparent = f"{parent[:36]}{random.getrandbits(64) or 1:016x}{parent[52:]}"
        self._attributes: dict[str, types.AnyValue] = {}
        self.told: list[tuple[str, types.Attributes, int]] = []
        self._links = ()
        self._status = _UNSET
        self._start_time = time.time_ns()

    def __enter__(self) -> Self:
        if self._kind is not SpanKind.CLIENT:
            self._token: Token[str] = _above.set(self.traceparent)
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
        return _span_context(self.traceparent, is_remote=False)

    @cached_property
    def _parent(self) -> SpanContext:  # type: ignore[override]
        return _span_context(self.parent_traceparent, is_remote=self._kind is SpanKind.SERVER)

    @property
    def _resource(self) -> Resource:  # type: ignore[override]
        return self._recorder.resource

    @property
    def _instrumentation_scope(self) -> InstrumentationScope:  # type: ignore[override]
        return self._recorder.scope

    @cached_property
    def _events(self) -> list[Event]:  # type: ignore[override]
        return [Event(*told) for told in self.told]

    def get_span_context(self) -> SpanContext:
        """Return the ids."""
        return self._context

    def is_recording(self) -> bool:
        """Return True: it is not asked after its end."""
        return True

    def set_attribute(self, key: str, value: types.AnyValue) -> None:
        """Set an attribute."""
        self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, types.AnyValue]) -> None:
        """Set attributes."""
        self._attributes.update(attributes)

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        """Add an event, now or at a time in nanoseconds since 1970."""
        self.told.append((name, attributes, timestamp or time.time_ns()))

    def update_name(self, name: str) -> None:
        """Change the name."""
        self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status."""
        self._status = status if isinstance(status, Status) else Status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an exception as an event, without its stack."""
        told: dict[str, Any] = {"exception.type": type(exception).__qualname__, "exception.message": str(exception)}
        self.add_event("exception", told | dict(attributes or {}), timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End the span, now or at a time in nanoseconds since 1970, and hand it over."""
        self._end_time = time.time_ns() if end_time is None else end_time
        self._recorder.finished.append(self)


class _Unsampled(UnsampledSpan):
    """Keeps what begins in its block from being recorded."""

    def __enter__(self) -> Self:
        self._token: Token[str] = _above.set(self.traceparent)
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
        self._tokens: tuple[Token[Context], Token[str]] = (
            attach(trace.set_span_in_context(self._span)),
            _above.set(traceparent_of(self._span)),
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
    """A resource that is hashed once: exporters ask for the hash with every span, and it is one of a JSON text."""

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


def _tell(span: trace.Span, error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        # Nothing went wrong here: nobody waits for the answer any more.
        span.add_event("outrider.cancelled")
        return
    span.set_attribute("error.type", error.reason if isinstance(error, ServiceError) else type(error).__qualname__)
    span.record_exception(error)
    span.set_status(StatusCode.ERROR, str(error))


def ids_of(traceparent: str) -> tuple[bytes, bytes]:
    """Return the ids of a traceparent of version 00: of the trace, 16 bytes, and of the span, 8."""
    return bytes.fromhex(traceparent[_TRACE_ID]), bytes.fromhex(traceparent[_SPAN_ID])


def _span_context(traceparent: str, *, is_remote: bool) -> SpanContext:
    flags = TraceFlags(int(traceparent[_FLAGS], 16))
    return SpanContext(int(traceparent[_TRACE_ID], 16), int(traceparent[_SPAN_ID], 16), is_remote, flags)
