"""Spans that exporters send are received, kept in files and read again."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from orchestrator.bench.spans import Event, Span, SpanReceiver, read_spans
from services.frame.telemetry import NO_HEADERS, child_span, configure_telemetry, request_span
from tests.collector import patiently
from tests.unit.orchestrator.bench.known import KnownSpans, otlp_json


async def receive(monkeypatch: pytest.MonkeyPatch) -> SpanReceiver:
    """A receiver that has what a service sent: a request, a cycle in it, and an event of that."""
    async with SpanReceiver() as receiver:
        for name, value in receiver.variables.items():
            monkeypatch.setenv(name, value)
        with patiently():
            telemetry = configure_telemetry("a service")
            with request_span(telemetry, "request", NO_HEADERS), child_span(telemetry, "wait", SpanKind.CLIENT) as span:
                span.set_attributes({"text": "naïve", "count": 3, "share": 0.5, "is_late": True})
                span.add_event("moment", {"rows": 2**40}, timestamp=17)
            await asyncio.to_thread(telemetry.shutdown)
    return receiver


async def test_what_is_sent_is_received(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = {span.name: span for span in (await receive(monkeypatch)).spans}
    request, wait = spans["request"], spans["wait"]
    assert wait.service == "a service"
    assert (wait.trace_id, wait.parent_id) == (request.trace_id, request.span_id)
    assert request.parent_id == ""
    assert request.started_ns <= wait.started_ns <= wait.ended_ns <= request.ended_ns
    assert wait.attributes["text"] == "naïve"
    assert (wait.attributes["count"], wait.attributes["share"], wait.attributes["is_late"]) == (3, 0.5, True)
    assert wait.events == (Event("moment", 17, {"rows": 2**40}),)


async def test_a_file_holds_what_was_received(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = await receive(monkeypatch)
    path = tmp_path / "spans.json"
    receiver.write(path)
    assert read_spans(path) == receiver.spans


async def test_a_file_is_like_a_collector_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding: ids in hexadecimal, enumerations as numbers."""
    receiver = await receive(monkeypatch)
    path = tmp_path / "spans.json"
    receiver.write(path)
    told: list[dict[str, Any]] = [
        span
        for line in path.read_text().splitlines()
        for of_resource in json.loads(line)["resourceSpans"]
        for scope in of_resource["scopeSpans"]
        for span in scope["spans"]
    ]
    (wait,) = (span for span in told if span["name"] == "wait")
    (found,) = (span for span in receiver.spans if span.name == "wait")
    assert (wait["traceId"], wait["spanId"], wait["parentSpanId"]) == (found.trace_id, found.span_id, found.parent_id)
    assert wait["kind"] == 3
    assert wait["startTimeUnixNano"] == str(found.started_ns)


def test_a_collector_s_file_is_read(tmp_path: Path) -> None:
    spans = KnownSpans("ab" * 16).cycle()
    path = tmp_path / "spans.json"
    path.write_text(otlp_json(spans) + "\n\n")
    assert read_spans(path) == [*spans]


def test_an_empty_file_has_no_spans(tmp_path: Path) -> None:
    path = tmp_path / "spans.json"
    path.touch()
    assert read_spans(path) == list[Span]()
