"""An OTLP collector in this process: what exporters send, over real gRPC or HTTP, ends up in it."""

import gzip
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from orchestrator.bench.spans import Span, attributes_of, spans_of
from services.frame.telemetry import otlp, otlp_http
from tests.waiting import PATIENCE_S


@dataclass(frozen=True)
class CollectedEvent:
    """An event of a span."""

    name: str
    time_ns: int
    attributes: dict[str, Any]


@dataclass(frozen=True)
class CollectedSpan:
    """A span as it was received. Ids are in hexadecimal; `parent_id` is empty at a root; `kind` is as in "SERVER"."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    started_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    events: tuple[CollectedEvent, ...]
    is_error: bool
    tracestate: str
    num_dropped: int

    @property
    def event_names(self) -> list[str]:
        return [event.name for event in self.events]


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """It answers once it is `open`. `received` are the spans as `orchestrator.bench` has them."""

    endpoint: str = ""
    open: threading.Event = field(default_factory=threading.Event)
    spans: list[CollectedSpan] = field(default_factory=list)
    received: list[Span] = field(default_factory=list)
    metrics: set[str] = field(default_factory=set)
    calls: list[grpc.ServicerContext] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def named(self, name: str) -> list[CollectedSpan]:
        """The spans of a name, in the order in which they began."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.started_ns)

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.calls.append(context)
        self.headers.append({key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
        return self.receive(request)

    def receive(self, request: Any) -> Any:
        """Take what was sent, and return the answer to it."""
        assert self.open.wait(30)
        if isinstance(request, metrics_service_pb2.ExportMetricsServiceRequest):
            for of_resource in request.resource_metrics:
                self.metrics |= {metric.name for scope in of_resource.scope_metrics for metric in scope.metrics}
            return metrics_service_pb2.ExportMetricsServiceResponse()
        self.received += spans_of(request)
        for of_resource in request.resource_spans:
            service = attributes_of(of_resource.resource.attributes)["service.name"]
            for scope in of_resource.scope_spans:
                self.spans += [_span(service, span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def patiently() -> Iterator[None]:
    """No collector of ours is away because the machine is busy."""
    options = (("grpc.min_reconnect_backoff_ms", int(PATIENCE_S * 1000)),)
    with patch.object(otlp, "_CHANNEL_OPTIONS", options), patch.object(otlp_http, "CONNECT_S", PATIENCE_S):
        yield


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """A collector, on a free port where none is named."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        with patiently():
            yield collector
    finally:
        collector.open.set()
        server.stop(None).wait()


REQUESTS = {
    "/v1/traces": trace_service_pb2.ExportTraceServiceRequest,
    "/v1/metrics": metrics_service_pb2.ExportMetricsServiceRequest,
}


@contextmanager
def collecting_http(port: int = 0) -> Iterator[Collector]:
    """The same over HTTP."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.headers.append({name.lower(): value for name, value in self.headers.items()})
            unpack = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(self.headers.get("Content-Encoding", ""))
            reply = collector.receive(REQUESTS[self.path].FromString(unpack(body) if unpack else body))
            self.send_response(200)
            self.send_header("Content-Length", str(reply.ByteSize()))
            self.end_headers()
            self.wfile.write(reply.SerializeToString())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        # It would wait for connections that a client keeps.
        server.block_on_close = False
        collector.endpoint = f"http://127.0.0.1:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            with patiently():
                yield collector
        finally:
            collector.open.set()
            server.shutdown()
            serving.join()


COLLECTING = {"grpc": collecting, "http/protobuf": collecting_http}


def _span(service: str, span: trace_pb2.Span) -> CollectedSpan:
    return CollectedSpan(
        service=service,
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        started_ns=span.start_time_unix_nano,
        ended_ns=span.end_time_unix_nano,
        attributes=attributes_of(span.attributes),
        events=tuple(
            CollectedEvent(event.name, event.time_unix_nano, attributes_of(event.attributes)) for event in span.events
        ),
        is_error=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        tracestate=span.trace_state,
        num_dropped=span.dropped_attributes_count + span.dropped_events_count + span.dropped_links_count,
    )
