"""Spans made by hand: one for each message, as the messages of a stream have no metadata of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, use_span

from services.frame.telemetry import Telemetry, context_from_traceparent


@contextmanager
def server_span(telemetry: Telemetry, name: str, traceparent: str) -> Iterator[Span]:
    """Run the block under a server span, the child of the message's `traceparent`. Errors are recorded on it."""
    with _span(telemetry, name, SpanKind.SERVER, context_from_traceparent(traceparent)) as span:
        yield span


@contextmanager
def child_span(telemetry: Telemetry, name: str, kind: SpanKind = SpanKind.INTERNAL) -> Iterator[Span]:
    """Run the block under a child of the span under way in this task. Errors are recorded on it."""
    with _span(telemetry, name, kind, None) as span:
        yield span


@contextmanager
def _span(telemetry: Telemetry, name: str, kind: SpanKind, context: Context | None) -> Iterator[Span]:
    if not telemetry.is_tracing:
        yield INVALID_SPAN
        return
    span = telemetry.tracer.start_span(name, context=context, kind=kind)
    with use_span(span, end_on_exit=True):
        yield span
