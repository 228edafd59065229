"""Spans of our services: received over OTLP in this process, and kept in files.

A file holds OTLP JSON, a line for each export, as the file exporter of OpenTelemetry's collector writes it:
https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/
"""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1 import common_pb2

from services.frame.program.atomic_file import replacing

_METHOD = "opentelemetry.proto.collector.trace.v1.TraceService"
# In OTLP's JSON these are in hexadecimal, where protobuf's own has base64.
_IDS = ("traceId", "spanId", "parentSpanId")


@dataclass(frozen=True)
class Event:
    """Something that happened at a moment of a span, in nanoseconds since 1970."""

    name: str
    time_ns: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Span:
    """A span of one of our services. Ids are in hexadecimal; `parent_id` is empty at a root."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    started_ns: int
    ended_ns: int
    attributes: Mapping[str, Any]
    events: tuple[Event, ...]


class SpanFileError(ValueError):
    """A file holds something else than spans. The message is one sentence that names the file and the line."""


class SpanReceiver:
    """A receiver of spans in this process, to be entered; then processes started with `variables` send theirs to it.

    It keeps messages as they come and reads them when it is asked, so that it takes no time while something is
    measured. Processes hold spans back for about a second, and send what is left as they stop.
    """

    def __init__(self) -> None:
        self._received: list[bytes] = []
        self._port = 0

    async def __aenter__(self) -> Self:
        """Listen on a free port of this machine."""
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(self._export)
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(_METHOD, {"Export": handler})])
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, stack: TracebackType | None
    ) -> None:
        """Stop. What was received stays."""
        await self._server.stop(None)

    @property
    def variables(self) -> dict[str, str]:
        """What has to be in the environment of the processes whose spans are wanted."""
        return {
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{self._port}",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc",
        }

    @property
    def spans(self) -> list[Span]:
        """All that was received, in the order in which it came."""
        return [span for export in self._exports() for span in spans_of(export)]

    def write(self, path: Path) -> None:
        """Write all that was received to a file, in the place of one that is there. Raises OSError."""
        with replacing(path) as temporary, temporary.open("w") as file:
            for export in self._exports():
                file.write(_to_json(export) + "\n")

    def _exports(self) -> Iterator[ExportTraceServiceRequest]:
        return map(ExportTraceServiceRequest.FromString, self._received)

    async def _export(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        # An empty one only asks whether somebody is here.
        if request:
            self._received.append(request)
        return ExportTraceServiceResponse().SerializeToString()


def read_spans(path: Path) -> list[Span]:
    """Return the spans of a file. Raises OSError, and SpanFileError where it holds something else."""
    with path.open("rb") as lines:
        return [
            span
            for number, line in enumerate(lines, 1)
            if line.strip()
            for span in spans_of(_from_json(line, f"{path}: line {number}"))
        ]


def spans_of(export: ExportTraceServiceRequest) -> Iterator[Span]:
    """Give the spans of one export."""
    for of_resource in export.resource_spans:
        service = str(attributes_of(of_resource.resource.attributes).get("service.name", ""))
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    service,
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    attributes_of(span.attributes),
                    tuple(
                        Event(each.name, each.time_unix_nano, attributes_of(each.attributes)) for each in span.events
                    ),
                )


def attributes_of(pairs: Iterable[common_pb2.KeyValue]) -> dict[str, Any]:
    """Return attributes as Python's values."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: common_pb2.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)


def _to_json(export: ExportTraceServiceRequest) -> str:
    message = MessageToDict(export, use_integers_for_enums=True)
    _spell_ids(message, lambda id_: base64.b64decode(id_).hex())
    return json.dumps(message, separators=(",", ":"))


def _from_json(line: bytes, place: str) -> ExportTraceServiceRequest:
    try:
        message = json.loads(line)
        _spell_ids(message, lambda id_: base64.b64encode(bytes.fromhex(id_)).decode())
        return ParseDict(message, ExportTraceServiceRequest(), ignore_unknown_fields=True)
    except (ValueError, TypeError, AttributeError, ParseError) as error:
        raise SpanFileError(f"{place} is no OTLP JSON of spans") from error


def _spell_ids(message: Any, spell: Callable[[str], str]) -> None:
    """Spell the ids of all spans, and of those that they link to, in another way."""
    for of_resource in message.get("resourceSpans", ()):
        for scope in of_resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                for each in (span, *span.get("links", ())):
                    each |= {key: spell(each[key]) for key in _IDS if each.get(key)}
