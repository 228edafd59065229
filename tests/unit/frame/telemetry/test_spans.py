"""Spans that are cheap must tell what the SDK's tell."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, get_current_span

from services.frame.rpc.errors import ServiceError
from services.frame.telemetry import (
    NO_HEADERS,
    Telemetry,
    TraceHeaders,
    child_span,
    headers_of,
    request_span,
    server_span,
)
from services.frame.telemetry.recording import Recorder
from tests.waiting import eventually

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}"


@dataclass
class Recorded:
    """Telemetry, and the spans that were finished under it."""

    telemetry: Telemetry
    exporter: InMemorySpanExporter

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        assert self.telemetry.recorder is not None
        self.telemetry.recorder.flush()
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    exporter = InMemorySpanExporter()
    telemetry = Telemetry(Recorder(Resource({"service.name": "s"}), [SimpleSpanProcessor(exporter)]))
    yield Recorded(telemetry, exporter)
    telemetry.shutdown()


def parent_of(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def id_of(span: ReadableSpan | Span) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def test_when_off_there_is_no_span_and_no_trace() -> None:
    telemetry = Telemetry.off()
    for block in (request_span, server_span):
        with block(telemetry, "work", TraceHeaders(f"{PARENT}-01")) as span, child_span(telemetry, "part") as part:
            assert get_current_span() is span is part
            assert not span.is_recording()
            assert headers_of(span).traceparent == ""


def test_a_tree_within_a_process(recorded: Recorded) -> None:
    telemetry = recorded.telemetry
    with (
        request_span(telemetry, "request", TraceHeaders(f"{PARENT}-01")) as request,
        child_span(telemetry, "cycle") as cycle,
        child_span(telemetry, "message", SpanKind.CLIENT) as message,
    ):
        # Log lines carry the ids of the request.
        assert get_current_span() is request
        message.add_event("told", {"reason": "x"})
        cycle.set_attribute("index", 1)
        cycle.set_attributes({"drafter": "remote"})
    assert not get_current_span().get_span_context().is_valid
    request_, cycle_, message_ = (recorded.spans[name] for name in ("request", "cycle", "message"))
    assert [span.kind for span in (request_, cycle_, message_)] == [SpanKind.SERVER, SpanKind.INTERNAL, SpanKind.CLIENT]
    assert f"{parent_of(request_):016x}" == SPAN_ID
    assert parent_of(cycle_) == id_of(request_)
    assert parent_of(message_) == id_of(cycle_)
    assert {f"{span.context.trace_id:032x}" for span in (request_, cycle_, message_)} == {TRACE_ID}
    assert dict(cycle_.attributes or {}) == {"openinference.span.kind": "CHAIN", "index": 1, "drafter": "remote"}
    assert [(event.name, dict(event.attributes or {})) for event in message_.events] == [("told", {"reason": "x"})]
    times = [each for span in (request_, cycle_, message_) for each in (span.start_time, span.end_time)]
    assert sorted(times, key=lambda each: each or 0) == [times[0], times[2], times[4], times[5], times[3], times[1]]
    assert {span.resource.attributes["service.name"] for span in recorded.spans.values()} == {"s"}


@pytest.mark.parametrize("traceparent", ["", f"{PARENT}-01"])
def test_a_request_alone_is_an_answer_of_a_model(recorded: Recorded, traceparent: str) -> None:
    telemetry, headers = recorded.telemetry, TraceHeaders(traceparent)
    with request_span(telemetry, "request", headers), child_span(telemetry, "verify", SpanKind.CLIENT):
        pass
    with server_span(telemetry, "answer", headers):
        pass
    with child_span(telemetry, "of nobody", SpanKind.CLIENT):
        pass
    kinds = {name: (span.attributes or {})["openinference.span.kind"] for name, span in recorded.spans.items()}
    assert kinds == {"request": "LLM", "verify": "CHAIN", "answer": "CHAIN", "of nobody": "CHAIN"}


def test_a_span_goes_on_in_another_process(recorded: Recorded) -> None:
    telemetry = recorded.telemetry
    with request_span(telemetry, "request", NO_HEADERS), child_span(telemetry, "message") as message:
        headers = headers_of(message)
    with server_span(telemetry, "answer", headers):
        pass
    answer = recorded.spans["answer"]
    assert parent_of(answer) == id_of(message)
    assert answer.parent is not None and answer.parent.is_remote
    assert answer.context.trace_id == message.get_span_context().trace_id


def test_an_answer_may_have_parts(recorded: Recorded) -> None:
    telemetry = recorded.telemetry
    with server_span(telemetry, "answer", TraceHeaders(f"{PARENT}-01")) as answer, child_span(telemetry, "part"):
        pass
    assert parent_of(recorded.spans["part"]) == id_of(answer)


def test_what_is_finished_is_handed_over_without_being_asked_for(recorded: Recorded) -> None:
    with server_span(recorded.telemetry, "answer", TraceHeaders(f"{PARENT}-01")):
        pass
    eventually(recorded.exporter.get_finished_spans)


@pytest.mark.parametrize("traceparent", ["", "x", f"{PARENT}-01-more", f"00-{'0' * 32}-{SPAN_ID}-01"])
def test_without_a_usable_parent_it_is_a_root(recorded: Recorded, traceparent: str) -> None:
    with child_span(recorded.telemetry, "somebody else's"):
        with request_span(recorded.telemetry, "request", TraceHeaders(traceparent)):
            pass
        with server_span(recorded.telemetry, "answer", TraceHeaders(traceparent)):
            pass
    assert recorded.spans["request"].parent is None
    assert recorded.spans["answer"].parent is None


def test_what_the_caller_does_not_record_is_not_recorded_beneath(recorded: Recorded) -> None:
    for block in (request_span, server_span):
        with (
            block(recorded.telemetry, "request", TraceHeaders(f"{PARENT}-00")),
            child_span(recorded.telemetry, "part") as part,
        ):
            assert headers_of(part).traceparent.startswith(f"00-{TRACE_ID}-")
            assert headers_of(part).traceparent.endswith("-00")
    assert not recorded.spans


@pytest.mark.parametrize("block", [request_span, server_span])
def test_a_tracestate_goes_with_its_trace(recorded: Recorded, block: Any) -> None:
    telemetry, state = recorded.telemetry, "vendor=value,other=1"
    with (
        block(telemetry, "above", TraceHeaders(f"{PARENT}-01", f" {state.replace(',', ', ')} ")),
        child_span(telemetry, "cycle"),
        child_span(telemetry, "message", SpanKind.CLIENT) as message,
    ):
        told = headers_of(message)
    assert told.tracestate == state
    with server_span(telemetry, "answer", told):
        pass
    spans = recorded.spans
    assert set(spans) == {"above", "cycle", "message", "answer"}
    for span in spans.values():
        assert span.context.trace_state.to_header() == state
        assert span.parent is not None and span.parent.trace_state.to_header() == state


@pytest.mark.parametrize("state", ["x" * 513, "no value", "a=1,a=2", ",".join(f"k{index}=1" for index in range(33))])
def test_a_bad_tracestate_is_dropped(recorded: Recorded, state: str) -> None:
    for block in (request_span, server_span):
        with block(recorded.telemetry, "above", TraceHeaders(f"{PARENT}-01", state)) as span:
            assert headers_of(span).traceparent.startswith(f"00-{TRACE_ID}-")
            assert headers_of(span).tracestate == ""


def test_callers_are_no_parents_where_nothing_is_propagated() -> None:
    exporter = InMemorySpanExporter()
    recorder = Recorder(Resource({}), [SimpleSpanProcessor(exporter)], is_parent_taken=False)
    for block in (request_span, server_span):
        with block(Telemetry(recorder), "answer", TraceHeaders(f"{PARENT}-01", "vendor=value")):
            pass
    recorder.flush()
    assert [(span.parent, len(span.context.trace_state)) for span in exporter.get_finished_spans()] == [(None, 0)] * 2


@pytest.mark.parametrize(("sampler", "names"), [("always_off", set()), ("parentbased_always_off", {"answer"})])
def test_the_standard_sampler_decides(monkeypatch: pytest.MonkeyPatch, sampler: str, names: set[str]) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    exporter = InMemorySpanExporter()
    recorder = Recorder(Resource({}), [SimpleSpanProcessor(exporter)])
    telemetry = Telemetry(recorder)
    with server_span(telemetry, "answer", TraceHeaders(f"{PARENT}-01")):
        pass
    with server_span(telemetry, "root", NO_HEADERS), child_span(telemetry, "part"):
        pass
    recorder.flush()
    assert {span.name for span in exporter.get_finished_spans()} == names


def test_limits_hold_for_what_clients_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
    exporter = InMemorySpanExporter()
    telemetry = Telemetry(Recorder(Resource({}), [SimpleSpanProcessor(exporter)]))
    with request_span(telemetry, "request", TraceHeaders(f"{PARENT}-01")) as span:
        span.set_attribute("text", "abcdef")
    assert dict(exporter.get_finished_spans()[0].attributes or {})["text"] == "abc"


@pytest.mark.parametrize("traceparent", ["", f"{PARENT}-01"])
@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [
        (
            ServiceError(grpc.StatusCode.UNAVAILABLE, "NOT_READY", "the service is still starting"),
            "NOT_READY",
            "services.frame.rpc.errors.ServiceError",
        ),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError", "ZeroDivisionError"),
        (JSONDecodeError("bad", "", 0), "json.decoder.JSONDecodeError", "json.decoder.JSONDecodeError"),
    ],
)
def test_an_error_is_told(recorded: Recorded, traceparent: str, error: Exception, kind: str, name: str) -> None:
    with pytest.raises(type(error)), server_span(recorded.telemetry, "answer", TraceHeaders(traceparent)):
        raise error
    span = recorded.spans["answer"]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, str(error))
    assert dict(span.attributes or {}) == {"openinference.span.kind": "CHAIN", "error.type": kind}
    assert [event.name for event in span.events] == ["exception"]
    told = dict(span.events[0].attributes or {})
    assert (told["exception.type"], told["exception.message"]) == (name, str(error))


@pytest.mark.parametrize("error", [asyncio.CancelledError(), GeneratorExit()])
def test_giving_up_is_no_error(recorded: Recorded, error: BaseException) -> None:
    with pytest.raises(type(error)), server_span(recorded.telemetry, "answer", TraceHeaders(f"{PARENT}-01")):
        raise error
    span = recorded.spans["answer"]
    assert span.status.status_code is StatusCode.UNSET
    assert [event.name for event in span.events] == ["outrider.cancelled"]


def test_where_only_requests_are_traced_their_span_has_the_events(recorded: Recorded) -> None:
    within = recorded.telemetry.of_requests()
    with request_span(recorded.telemetry, "request", TraceHeaders(f"{PARENT}-01", "vendor=value")) as request:
        with pytest.raises(ValueError), child_span(within, "cycle") as cycle:
            cycle.set_attribute("index", 1)
            cycle.add_event("outrider.fallback", {"outrider.reason": "x"})
            told = headers_of(cycle)
            assert get_current_span() is request
            raise ValueError
        with server_span(within, "answer", told) as answer:
            assert not answer.is_recording()
    assert set(recorded.spans) == {"request"}
    span = recorded.spans["request"]
    assert dict(span.attributes or {}) == {"openinference.span.kind": "LLM"}
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("outrider.fallback", {"outrider.reason": "x"})
    ]
    # A service that is told of it is told not to record.
    traceparent, tracestate = headers_of(request)
    assert told == (traceparent[:-1] + "0", tracestate)
