"""What spans cost: how many a second one core records, encodes and serializes, ours and the SDK's.

`python benchmarks/spans.py` runs, on one core, the spans of requests as the three services make them (a cycle, two
messages that are sent and two that are received, with their events and attributes), of one request and of 16 at a time,
in three ways: all by the SDK, our spans with the SDK's encoder, and our spans with ours. Nothing is sent. It prints a
JSON line for each: spans a second of processor time, the median of some rounds, in which the ways take turns.
"""

import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from google.protobuf.message import Message
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind

from services.frame.telemetry import (
    DEFAULT_SPAN_QUEUE,
    NO_HEADERS,
    Telemetry,
    TraceHeaders,
    child_span,
    headers_of,
    request_span,
    server_span,
)
from services.frame.telemetry.otlp import encode
from services.frame.telemetry.recording import Recorder

NUM_ROUNDS = 9
NUM_CYCLES = 3200
SPANS_OF_A_CYCLE = 5


class Discarding(SpanExporter):
    """Encodes and serializes what it is given."""

    def __init__(self, encoder: Callable[[Sequence[ReadableSpan]], Message]) -> None:
        self._encoder = encoder
        self.num_spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Count the spans."""
        self._encoder(spans).SerializeToString()
        self.num_spans += len(spans)
        return SpanExportResult.SUCCESS


class SdkRecorder(Recorder):
    """All spans are the SDK's."""

    def message(self, name: str, headers: TraceHeaders) -> AbstractContextManager[trace.Span]:
        """Begin the span of a message that was received."""
        return self.request(name, headers)

    def child(self, name: str, kind: SpanKind) -> AbstractContextManager[trace.Span]:
        """Begin a span under the current one."""
        return self._begin(name, kind, None, {"openinference.span.kind": "CHAIN"})


WAYS: dict[str, tuple[type[Recorder], Callable[[Sequence[ReadableSpan]], Message]]] = {
    "the SDK's spans and encoder": (SdkRecorder, encode_spans),
    "our spans, the SDK's encoder": (Recorder, encode_spans),
    "our spans and encoder": (Recorder, encode),
}


async def request(telemetry: Telemetry, num_cycles: int) -> None:
    """Record a request."""
    with request_span(telemetry, "text_completion", NO_HEADERS):
        for index in range(num_cycles):
            with child_span(telemetry, "cycle") as cycle:
                for name in ("propose", "verify"):
                    with child_span(telemetry, name, SpanKind.CLIENT) as span:
                        headers = headers_of(span)
                        await asyncio.sleep(0)
                    with server_span(telemetry, f"service.{name}", headers) as span:
                        span.add_event("outrider.queued", timestamp=time.time_ns())
                        decode = {"queued_ms": 0.1, "decode_ms": 1.5, "num_decodes": 1, "batch_rows": 5}
                        span.add_event("outrider.decode", decode, timestamp=time.time_ns())
                        span.add_event("outrider.computed", timestamp=time.time_ns())
                        span.set_attribute("outrider.cycle.num_accepted", 3)
                cycle.set_attributes({"index": index, "num_draft_tokens": 4, "num_accepted": 3, "drafter": "remote"})


async def requests(telemetry: Telemetry, num_streams: int) -> None:
    """Record so many at a time."""
    await asyncio.gather(*(request(telemetry, NUM_CYCLES // num_streams) for _ in range(num_streams)))


def spans_per_s(way: str, num_streams: int) -> float:
    """Return how many spans a second of processor time takes, all threads of the process together."""
    kind, encoder = WAYS[way]
    exporter = Discarding(encoder)
    recorder = kind(Resource({"service.name": "s"}), [BatchSpanProcessor(exporter, max_queue_size=DEFAULT_SPAN_QUEUE)])
    started_s = time.process_time()
    asyncio.run(requests(Telemetry(recorder), num_streams))
    recorder.flush()
    spent_s = time.process_time() - started_s
    recorder.shutdown()
    assert exporter.num_spans == NUM_CYCLES * SPANS_OF_A_CYCLE + num_streams
    return exporter.num_spans / spent_s


def main() -> None:
    """Measure and print."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for num_streams in (1, 16):
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(NUM_ROUNDS):
            for way, measured in found.items():
                measured.append(spans_per_s(way, num_streams))
        for way, measured in found.items():
            rate = round(statistics.median(measured))
            print(json.dumps({"way": way, "streams": num_streams, "spans_per_s": rate}), flush=True)


if __name__ == "__main__":
    main()
