"""What records spans where tracing is on: the SDK's provider, and spans of our own that are cheap.

A cycle makes five spans. One of the SDK's takes a lock and copies what it is given at every step, and asks a sampler
that can only follow the parent; ours takes about a quarter of its time. What happens to a finished span is the SDK's.
"""

import random
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util import types

SCOPE = "outrider"


class Recorder:
    """Begins the spans of one service and hands the finished ones to processors of the SDK."""

    def __init__(self, resource: Resource, processors: Sequence[SpanProcessor]) -> None:
        """The sampler and the limits are what the standard variables say. Raises ValueError where they say nonsense."""
        self.resource = _HashedResource(resource.attributes, resource.schema_url)
        self.scope = InstrumentationScope(SCOPE)
        self.processor = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]  # the SDK's own gap
        for processor in processors:
            self.processor.add_span_processor(processor)
        self._provider = TracerProvider(
            resource=self.resource, active_span_processor=self.processor, shutdown_on_exit=False
        )
        self.tracer = self._provider.get_tracer(SCOPE)
        self._is_parent_followed = isinstance(self._provider.sampler, ParentBased)

    def begin(self, name: str, kind: SpanKind, context: Context | None = None) -> trace.Span:
        """Begin a span under the one in the context; None is the current context.

        It is the SDK's where its sampler has something to decide: at a root, and where it does not follow parents.
        """
        parent = trace.get_current_span(context).get_span_context()
        if not parent.is_valid or (parent.is_remote and not self._is_parent_followed):
            return self.tracer.start_span(name, context, kind)
        if not parent.trace_flags.sampled:
            return NonRecordingSpan(parent)
        return LightSpan(self, name, kind, parent)

    def shutdown(self) -> None:
        """Send what is still queued and stop the exporters."""
        self._provider.shutdown()


class LightSpan(ReadableSpan, trace.Span):
    """A span that one thread writes, and not after its end. Its attributes and events are few and well formed."""

    _attributes: dict[str, types.AnyValue]
    _events: list[Event]

    def __init__(self, recorder: Recorder, name: str, kind: SpanKind, parent: SpanContext) -> None:
        # All that ReadableSpan sets, without its defaults.
        self._recorder = recorder
        self._name = name
        self._kind = kind
        self._parent = parent
        self._context: SpanContext = SpanContext(
            parent.trace_id, random.getrandbits(64) or 1, False, parent.trace_flags, parent.trace_state
        )
        self._resource = recorder.resource
        self._instrumentation_scope = recorder.scope
        self._instrumentation_info = None
        self._attributes = {}
        self._events = []
        self._links = ()
        self._status = _UNSET
        self._end_time = None
        self._start_time = time.time_ns()

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
        self._events.append(Event(name, attributes, timestamp))

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
        self._recorder.processor.on_end(self)


class _HashedResource(Resource):
    """A resource that is hashed once: exporters ask for the hash with every span, and it is one of a JSON text."""

    @cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash


_UNSET = Status(StatusCode.UNSET)
