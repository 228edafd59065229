"""What spans say of services, and what is made of it."""

from collections.abc import Iterator

import pytest

from orchestrator.bench.spans import Event, Span
from orchestrator.simulation.report import seen_lines
from orchestrator.simulation.run import simulate
from orchestrator.simulation.streams import policy_of
from orchestrator.simulation.table import Row
from orchestrator.simulation.traces import NothingSeenError, look_at

_MS = 1_000_000
DRAFT_MS, VERIFY_MS, ROUND_TRIP_MS, OWN_MS = 2.0, 20.0, 1.0, 0.5


def service_span(trace: str, name: str, begin_ms: float, work_ms: float, told: dict[str, float]) -> list[Span]:
    """Return the span of a caller and that of the service below it, which works between two halves of a round trip."""
    end_ms = begin_ms + ROUND_TRIP_MS + work_ms
    arrived_ns = int((begin_ms + ROUND_TRIP_MS / 2) * _MS)
    done_ns = arrived_ns + int(work_ms * _MS)
    events = (
        Event("outrider.queued", arrived_ns, {}),
        Event("outrider.decode", arrived_ns, {f"outrider.{key}": value for key, value in told.items()}),
        Event("outrider.computed", done_ns, {}),
    )
    own_id = f"{name} {begin_ms}"
    client = Span("", name, trace, own_id, f"cycle {begin_ms}", int(begin_ms * _MS), int(end_ms * _MS), {}, ())
    return [client, Span("", f"{name}d", trace, f"{own_id} served", own_id, arrived_ns, done_ns, {}, events)]


def cycles(trace: str, num_draft_tokens: int, accepted: list[int], streams: int = 1) -> Iterator[Span]:
    """Yield the spans of cycles, the first of which reads the prompt."""
    now_ms = 0.0
    for index, num_accepted in enumerate([0, *accepted]):
        begin_ms = now_ms
        cycle_id = f"cycle {index}"
        parts: list[Span] = []
        if num_draft_tokens:
            told = {"num_decodes": num_draft_tokens, "batch_rows": streams, "decode_index": 2 * index}
            parts += service_span(trace, "propose", now_ms, num_draft_tokens * DRAFT_MS, told)
            now_ms += ROUND_TRIP_MS + num_draft_tokens * DRAFT_MS
        told = {"num_decodes": 1, "batch_rows": streams * (num_draft_tokens + 1), "decode_index": index + 1}
        parts += service_span(trace, "verify", now_ms, VERIFY_MS, told)
        now_ms += ROUND_TRIP_MS + VERIFY_MS
        attributes = {
            "outrider.cycle.index": index,
            "outrider.cycle.num_draft_tokens": num_draft_tokens,
            "outrider.cycle.num_accepted": num_accepted,
            "outrider.cycle.drafter": "remote" if num_draft_tokens else "none",
        }
        yield Span("", "cycle", trace, cycle_id, "", int(begin_ms * _MS), int(now_ms * _MS), attributes, ())
        for part in parts:
            parent = cycle_id if part.parent_id.startswith("cycle") else part.parent_id
            yield Span(**{**vars(part), "parent_id": parent})
        now_ms += OWN_MS


def test_what_was_seen() -> None:
    seen = look_at(cycles("a", 3, [3, 1, 0, 3] * 25))
    assert (seen.scenario.num_streams, seen.num_draft_tokens, seen.num_cycles) == (1, 3, 100)
    assert seen.scenario.round_trips_ms == [pytest.approx(ROUND_TRIP_MS)]
    assert seen.scenario.target_round_trip_ms == pytest.approx(ROUND_TRIP_MS)
    assert seen.scenario.orchestrator_ms == pytest.approx(OWN_MS)
    assert seen.scenario.target.decode_ms(1, 4, 0) == pytest.approx(VERIFY_MS)
    assert seen.scenario.draft.decode_ms(1, 1, 0) == pytest.approx(DRAFT_MS)
    # Of 100 first tokens 75 were right, of these 75 seconds 50, and of these 50 thirds all.
    assert seen.accepted_by_position == pytest.approx([0.75, 2 / 3, 1.0])
    assert seen.scenario.acceptance == (pytest.approx(175 / 225),)


def test_what_was_seen_happens_again() -> None:
    seen = look_at(cycles("a", 3, [3, 1, 0, 3] * 50))
    again = simulate(seen.scenario, policy_of("fixed", seen.num_draft_tokens), 20.0)
    # Acceptance is taken to be the same at every position, which is not quite so here.
    assert again.tokens_per_s == pytest.approx(seen.tokens_per_s, rel=0.1)


def test_plain_decoding_happens_again_to_the_letter() -> None:
    seen = look_at(cycles("a", 0, [0] * 50))
    again = simulate(seen.scenario, policy_of("plain"), 5.0)
    assert again.tokens_per_s == pytest.approx(seen.tokens_per_s, rel=0.001)


def test_streams_that_share_decodes() -> None:
    spans = [span for trace in "abc" for span in cycles(trace, 2, [1] * 40, streams=3)]
    seen = look_at(spans)
    assert seen.scenario.num_streams == 3
    assert seen.scenario.target.decode_ms(3, 9, 0) == pytest.approx(VERIFY_MS)
    assert seen.scenario.draft.decode_ms(3, 3, 0) == pytest.approx(DRAFT_MS)


def test_runs_with_drafts_count_where_there_are_some() -> None:
    plain = [*cycles("a", 0, [0] * 100)]
    last_ns = max(span.ended_ns for span in plain)
    later = [
        Span(**{**vars(span), "started_ns": span.started_ns + last_ns, "ended_ns": span.ended_ns + last_ns})
        for span in cycles("b", 2, [2, 0] * 10)
    ]
    seen = look_at([*plain, *later])
    assert (seen.num_draft_tokens, seen.num_cycles) == (2, 20)
    assert seen.scenario.acceptance == (pytest.approx(20 / 30),)


def test_without_drafts_it_is_said() -> None:
    seen = look_at(cycles("a", 0, [0] * 50))
    again = Row(0, "", "plain", 0, seen.tokens_per_s, 1.0, 1.0, None, 50, 1.0)
    assert any("No drafts were seen" in line for line in seen_lines(seen, again))


def test_without_cycles_nothing_was_seen() -> None:
    with pytest.raises(NothingSeenError, match="no spans of cycles"):
        look_at([Span("", "generate", "a", "b", "", 0, 1, {}, ())])
