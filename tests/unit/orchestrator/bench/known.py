"""Spans of cycles whose parts are known, as the three services would send them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.bench.cycles import PARTS, REST
from orchestrator.bench.spans import Event, Span

SECOND_NS = 10**9
# Milliseconds of the parts of a wait, each another sum of powers of two, so that no two can be mistaken.
DRAFT = dict(zip(PARTS, (1.0, 2.0, 0.0, 0.0, 4.0, 8.0, 16.0, 32.0, 64.0, 0.0, 0.0), strict=True))
TARGET = dict(zip(PARTS, (0.25, 0.5, 128.0, 256.0, 512.0, 0.0, 0.125, 1024.0, 2.5, 0.0, 0.0), strict=True))
ORCHESTRATOR_MS = 7.0


@dataclass
class KnownSpans:
    """Cycles of one request, one after the other, from `now_ms` on."""

    session: str
    now_ms: float = 0.0
    num_cycles: int = 0
    num_spans: int = 0

    def cycle(
        self,
        draft: dict[str, float] | None = DRAFT,
        target: dict[str, float] = TARGET,
        *,
        num_accepted: int = 2,
        decode_index: int = 1,
        batch_rows: int = 4,
        drafter: str = "remote",
        chances: Sequence[float] = (),
    ) -> list[Span]:
        """The spans of a cycle that takes as long as its parts; 5 ms of the orchestrator's lie behind its span.

        Without chances it is one of those that tell neither these nor who drafted.
        """
        begun_ms, cycle_id = self.now_ms, self._next_id()
        self.now_ms += ORCHESTRATOR_MS - 5.0
        spans: list[Span] = []
        if draft is not None:
            spans += self._wait(cycle_id, "propose", "draft", draft, num_decodes=3)
        spans += self._wait(cycle_id, "verify", "target", target, decode_index=decode_index, batch_rows=batch_rows)
        attributes: dict[str, Any] = {
            "outrider.cycle.index": self.num_cycles,
            "outrider.cycle.num_accepted": num_accepted,
        }
        if chances:
            attributes |= {"outrider.cycle.drafter": drafter, "outrider.cycle.chances": list(chances)}
        spans.append(
            self._span(cycle_id, "00000000000000ff", "orchestrator", "cycle", begun_ms, self.now_ms, attributes)
        )
        self.now_ms += 5.0
        self.num_cycles += 1
        # They come in any order.
        return spans[::-1]

    def _wait(self, parent_id: str, name: str, service: str, parts: dict[str, float], **told: int) -> Sequence[Span]:
        """A client's span and the server's in it: half of the wire and of the event loop is on either side."""
        begun_ms, client_id = self.now_ms, self._next_id()
        server_ms = begun_ms + parts["wire"] / 2
        queued_ms = server_ms + parts["service"] / 2
        started_ms = queued_ms + sum(parts[name] for name in ("queue", "turn", "company", "others", "planning"))
        computed_ms = started_ms + parts["decode"] + parts["sampling"] + parts[REST]
        ended_ms = computed_ms + parts["service"] / 2
        self.now_ms = ended_ms + parts["wire"] / 2
        decode = {"decode_ms": parts["decode"], "num_decodes": 1, "decode_index": 1, "batch_rows": 1, **told}
        computed = {
            "admission_ms": parts["queue"],
            "turn_ms": parts["turn"],
            "waiting_ms": parts["company"],
            "decoding_ms": parts["others"] + parts["decode"],
            "planning_ms": parts["planning"],
            "sampling_ms": parts["sampling"],
        }
        events = (
            _event("queued", queued_ms),
            _event("decode", started_ms, decode),
            _event("computed", computed_ms, computed),
        )
        server = f"{service}.{name}"
        return [
            self._span(client_id, parent_id, "orchestrator", name, begun_ms, self.now_ms),
            self._span(self._next_id(), client_id, service, server, server_ms, ended_ms, events=events),
        ]

    def _next_id(self) -> str:
        self.num_spans += 1
        return f"{self.num_spans:016x}"

    def _span(
        self,
        span_id: str,
        parent_id: str,
        service: str,
        name: str,
        started_ms: float,
        ended_ms: float,
        attributes: dict[str, Any] | None = None,
        events: tuple[Event, ...] = (),
    ) -> Span:
        times = _ns(started_ms), _ns(ended_ms)
        return Span(service, name, self.session, span_id, parent_id, *times, attributes or {}, events)


def _event(name: str, at_ms: float, attributes: dict[str, float] | None = None) -> Event:
    told = {f"outrider.{key}": value for key, value in (attributes or {}).items()}
    return Event(f"outrider.{name}", _ns(at_ms), told)


def _ns(ms: float) -> int:
    return SECOND_NS + round(ms * 1e6)


def otlp_json(spans: Sequence[Span]) -> str:
    """A line as a collector's file exporter writes it: ids in hexadecimal, times and whole numbers as strings."""
    return json.dumps({"resourceSpans": [_of_resource(span) for span in spans]})


def _of_resource(span: Span) -> dict[str, Any]:
    told = {
        "traceId": span.trace_id,
        "spanId": span.span_id,
        "parentSpanId": span.parent_id,
        "name": span.name,
        "kind": 2,
        "startTimeUnixNano": str(span.started_ns),
        "endTimeUnixNano": str(span.ended_ns),
        "attributes": _pairs(span.attributes),
        "events": [
            {"name": event.name, "timeUnixNano": str(event.time_ns), "attributes": _pairs(event.attributes)}
            for event in span.events
        ],
    }
    return {
        "resource": {"attributes": _pairs({"service.name": span.service})},
        "scopeSpans": [{"scope": {"name": "outrider"}, "spans": [told]}],
    }


def _pairs(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    kinds = {int: "intValue", float: "doubleValue", str: "stringValue"}
    return {kinds[type(value)]: str(value) if type(value) is int else value}
