"""Known spans are parted as they were put together."""

from dataclasses import replace

import pytest

from orchestrator.bench import cycles
from orchestrator.bench.cycles import MISSED, ORCHESTRATOR, PARTS, REST, Decode, cycles_of
from orchestrator.bench.spans import Event
from tests.unit.orchestrator.bench.known import DRAFT, ORCHESTRATOR_MS, SECOND_NS, TARGET, KnownSpans


def test_the_parts_of_a_cycle_are_found_and_add_up() -> None:
    known = KnownSpans("a")
    spans = known.cycle() + known.cycle()
    first, second = cycles_of(spans)
    assert (first.index, second.index, first.num_tokens) == (0, 1, 3)
    assert first.ended_ns == second.started_ns
    assert first.parts == pytest.approx(
        {
            (ORCHESTRATOR, ORCHESTRATOR): ORCHESTRATOR_MS,
            **{(cycles.DRAFT, part): ms for part, ms in DRAFT.items()},
            **{(cycles.TARGET, part): ms for part, ms in TARGET.items()},
        },
        abs=1e-5,
    )
    for cycle in (first, second):
        assert sum(cycle.parts.values()) == pytest.approx(cycle.duration_ms)


def test_what_is_told_by_nobody_is_the_rest() -> None:
    (cycle,) = cycles_of(KnownSpans("a").cycle(target=TARGET | {REST: 3.0}))
    assert cycle.target is not None
    assert cycle.target.parts == pytest.approx(TARGET | {REST: 3.0}, abs=1e-5)


def test_plain_decoding_has_no_draft() -> None:
    (cycle,) = cycles_of(KnownSpans("a").cycle(draft=None))
    assert cycle.draft is None
    assert {side for side, _ in cycle.parts} == {ORCHESTRATOR, cycles.TARGET}


def test_a_decode_is_known_by_its_number() -> None:
    (cycle,) = cycles_of(KnownSpans("a").cycle(draft=None, decode_index=7, batch_rows=12))
    assert cycle.target is not None
    assert cycle.target.decode is not None
    started_ns = cycle.target.decode.started_ns
    assert cycle.target.decode == Decode(7, started_ns, started_ns + 1024 * 10**6, 12)
    assert cycle.target.submitted_ns == SECOND_NS + round((ORCHESTRATOR_MS - 5.0 + 0.25 / 2 + 0.5 / 2) * 1e6)


def test_a_draft_that_never_came_was_waited_for_in_vain() -> None:
    spans = [
        replace(span, events=span.events[:1]) if span.name == "draft.propose" else span
        for span in KnownSpans("a").cycle()
    ]
    (cycle,) = cycles_of(spans)
    assert cycle.draft is not None
    assert cycle.draft.parts == pytest.approx(dict.fromkeys(PARTS, 0.0) | {MISSED: sum(DRAFT.values())})


def test_a_message_that_was_missed_at_first_leaves_the_time_of_that_to_the_rest() -> None:
    spans = KnownSpans("a").cycle(draft=None)
    (server,) = (span for span in spans if span.name == "target.verify")
    later_ns = 10 * 10**6
    missed = replace(
        server,
        span_id="missed",
        ended_ns=server.started_ns + later_ns,
        events=(server.events[0], Event("outrider.cache_miss", server.events[0].time_ns, {})),
    )
    # What was known happens later now, in a wait that is longer.
    spans = [
        replace(
            span,
            started_ns=span.started_ns + (later_ns if span is server else 0),
            ended_ns=span.ended_ns + later_ns,
            events=tuple(replace(event, time_ns=event.time_ns + later_ns) for event in span.events),
        )
        for span in spans
    ]
    (cycle,) = cycles_of([*spans, missed])
    assert cycle.target is not None
    assert cycle.target.parts == pytest.approx(TARGET | {REST: 10.0}, abs=1e-5)


def test_spans_of_a_service_that_tells_less_leave_more_to_the_rest() -> None:
    """An earlier version of ours told neither phases nor which decode it was."""
    spans = [
        replace(
            span,
            events=tuple(
                replace(event, attributes={"outrider.decode_ms": 1024.0} if event.name.endswith("decode") else {})
                for event in span.events
            ),
        )
        if span.name == "target.verify"
        else span
        for span in KnownSpans("a").cycle(draft=None)
    ]
    (cycle,) = cycles_of(spans)
    assert cycle.target is not None
    assert cycle.target.decode is None
    assert cycle.target.parts["decode"] == 1024.0
    assert cycle.target.parts[REST] == pytest.approx(128.0 + 256.0 + 512.0 + 0.125 + 2.5 + 1024.0)


def test_a_cycle_that_was_cut_off_is_left_out() -> None:
    known = KnownSpans("a")
    whole = known.cycle()
    cut = [replace(span, attributes={}) if span.name == "cycle" else span for span in known.cycle()]
    assert [cycle.index for cycle in cycles_of(whole + cut)] == [0]


def test_cycles_of_several_requests_come_in_the_order_in_which_they_began() -> None:
    first, second = KnownSpans("a"), KnownSpans("b", now_ms=1.0)
    spans = second.cycle() + first.cycle() + second.cycle() + first.cycle()
    assert [(cycle.session, cycle.index) for cycle in cycles_of(spans)] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]


def test_no_spans_are_no_cycles() -> None:
    assert cycles_of([]) == []
