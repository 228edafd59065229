"""The cycles of requests and the parts of each, from the spans of the three services. Pure.

A cycle lasts until the next one of its request begins. What the orchestrator does not spend in it with waiting for one
of the services is its own. A wait for a service is parted by what the service tells of its work (PARTS); what no part
accounts for is the rest, and shown as such.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.bench.spans import Event, Span

ORCHESTRATOR, DRAFT, TARGET = "orchestrator", "draft", "target"
MISSED, REST = "missed", "rest"
PARTS = {
    "wire": "from the orchestrator to the service and back, with what gRPC and both event loops add",
    "service": "in the service's event loop: a request is read and checked, an answer is written",
    "queue": "until the engine has a slot for it, and is done with the decode that is under way",
    "turn": "another process has its turn on the same cores",
    "company": "nothing is decoded: sessions that are expected are waited for",
    "others": "decodes without this session, while it has a slot",
    "planning": "rows are chosen and put together",
    "decode": "decodes with this session",
    "sampling": "after a decode: tokens are chosen, this session's and those of others that come before it",
    MISSED: "in vain: the message was given up, or refused",
    REST: "not accounted for",
}
"""The parts of a wait for a service, in their order, and what each of them is."""


@dataclass(frozen=True)
class Decode:
    """What a session had of a service's decodes for one message: from when to when, and the last one's index and rows.

    Decodes of a service are counted from 1; `num_rows` are those of all sessions. Nearly all verifications take one.
    """

    index: int
    started_ns: int
    ended_ns: int
    num_rows: int


@dataclass(frozen=True)
class Wait:
    """A wait of the orchestrator for a service: the milliseconds of its parts, which add up to it.

    `submitted_ns` is when the engine was given the work. It and `decode` are missing where the service did not answer,
    or told nothing.
    """

    started_ns: int
    ended_ns: int
    parts: Mapping[str, float]
    submitted_ns: int | None = None
    decode: Decode | None = None


@dataclass(frozen=True)
class Cycle:
    """One cycle of a request, whose trace is `session`; it lasts until the next one begins. Index 0 reads the prompt.

    Either wait may be missing: plain decoding has no draft, and a target that went away did not answer. `chances` are
    those of the draft tokens that were verified, each if the ones before it are accepted; none where nobody knew any.
    """

    session: str
    index: int
    started_ns: int
    ended_ns: int
    num_tokens: int
    draft: Wait | None
    target: Wait | None
    drafter: str = "none"
    chances: Sequence[float] = ()

    @property
    def duration_ms(self) -> float:
        """How long it took."""
        return (self.ended_ns - self.started_ns) / 1e6

    @property
    def parts(self) -> dict[tuple[str, str], float]:
        """Milliseconds of each part, by who spent them and on what. They add up to the cycle."""
        waits = {side: wait for side, wait in ((DRAFT, self.draft), (TARGET, self.target)) if wait}
        found = {(side, part): ms for side, wait in waits.items() for part, ms in wait.parts.items()}
        return {(ORCHESTRATOR, ORCHESTRATOR): self.duration_ms - sum(found.values()), **found}


def cycles_of(spans: Iterable[Span]) -> list[Cycle]:
    """Return the cycles that came to their end in these spans, in the order in which they began."""
    children: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.started_ns):
        children[span.trace_id, span.parent_id].append(span)
    found: list[Cycle] = []
    for siblings in children.values():
        cycles = [span for span in siblings if span.name == "cycle"]
        ends = [*(span.started_ns for span in cycles[1:]), *(span.ended_ns for span in cycles[-1:])]
        # One that was cut off has no index.
        found += [
            _cycle(span, ended_ns, children)
            for span, ended_ns in zip(cycles, ends, strict=True)
            if "outrider.cycle.index" in span.attributes
        ]
    return sorted(found, key=lambda cycle: cycle.started_ns)


def _cycle(span: Span, ended_ns: int, children: Mapping[tuple[str, str], Sequence[Span]]) -> Cycle:
    session, told = span.trace_id, span.attributes
    waits = {
        client.name: _wait(client, children.get((session, client.span_id), ()))
        for client in children.get((session, span.span_id), ())
    }
    return Cycle(
        session,
        told["outrider.cycle.index"],
        span.started_ns,
        ended_ns,
        told["outrider.cycle.num_accepted"] + 1,
        waits.get("propose"),
        waits.get("verify"),
        told.get("outrider.cycle.drafter", "none"),
        told.get("outrider.cycle.chances", ()),
    )


def _wait(client: Span, servers: Sequence[Span]) -> Wait:
    """Return the parts of a wait; a service may have been asked several times, and tells of each time by itself."""
    parts = dict.fromkeys(PARTS, 0.0)
    duration_ms = (client.ended_ns - client.started_ns) / 1e6
    # A message that was given up or refused tells nothing of its parts.
    answered = [events for server in servers if "outrider.computed" in (events := _events(server))]
    if not answered:
        return Wait(client.started_ns, client.ended_ns, parts | {MISSED: duration_ms})
    parts["wire"] = duration_ms - sum(server.ended_ns - server.started_ns for server in servers) / 1e6
    for server in servers:
        for part, ms in _parts_of_work(server, _events(server)).items():
            parts[part] += ms
    parts[REST] = duration_ms - sum(parts.values())
    last = answered[-1]
    return Wait(client.started_ns, client.ended_ns, parts, last["outrider.queued"].time_ns, _decode(last))


def _events(span: Span) -> dict[str, Event]:
    return {event.name: event for event in span.events}


def _parts_of_work(server: Span, events: Mapping[str, Event]) -> dict[str, float]:
    """Return the parts that a service tells of one message, none where it was not answered."""
    if "outrider.computed" not in events:
        return {}
    submitted, decode, computed = (events[f"outrider.{name}"] for name in ("queued", "decode", "computed"))
    in_event_loop_ns = submitted.time_ns - server.started_ns + server.ended_ns - computed.time_ns

    def told_ms(name: str) -> float:
        return float(computed.attributes.get(f"outrider.{name}_ms", 0.0))

    decode_ms = decode.attributes["outrider.decode_ms"]
    return {
        "service": in_event_loop_ns / 1e6,
        "queue": told_ms("admission"),
        "turn": told_ms("turn"),
        "company": told_ms("waiting"),
        "others": told_ms("decoding") - decode_ms,
        "planning": told_ms("planning"),
        "decode": decode_ms,
        "sampling": told_ms("sampling"),
    }


def _decode(events: Mapping[str, Event]) -> Decode | None:
    started, computed = events["outrider.decode"], events["outrider.computed"]
    told = started.attributes
    if "outrider.decode_index" not in told:
        return None
    if told["outrider.num_decodes"] == 1:
        ended_ns = started.time_ns + int(told["outrider.decode_ms"] * 1e6)
    else:
        ended_ns = computed.time_ns
    return Decode(told["outrider.decode_index"], started.time_ns, ended_ns, told["outrider.batch_rows"])
