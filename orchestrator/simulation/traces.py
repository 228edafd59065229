"""What spans of real services say of them: a scenario in which the same happens again, and what was seen."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from orchestrator.bench.spans import Event, Span
from orchestrator.costs import ModelCosts, Point
from orchestrator.drafting.drafter import NGRAM, PREDICTION, REMOTE
from orchestrator.simulation.scenario import Scenario

# Cycles that say something: the first one of a request reads its prompt.
_FIRST_INDEX = 1


class NothingSeenError(ValueError):
    """There are no spans of cycles whose draft and target were traced as well. The message is one sentence."""


@dataclass(frozen=True)
class Seen:
    """What was seen while most streams were under way, and the scenario that is made of it.

    `accepted_by_position` is, for each position in a draft, the share that was accepted of those that were drafted
    there and followed accepted ones only. `num_looked_up` of the cycles had a draft from a text of the request, which
    is not simulated.
    """

    scenario: Scenario
    num_draft_tokens: int
    tokens_per_s: float
    accepted_by_position: Sequence[float]
    num_cycles: int
    num_looked_up: int


@dataclass(frozen=True)
class _Cycle:
    trace_id: str
    started_ns: int
    ended_ns: int
    num_draft_tokens: int
    num_accepted: int
    drafter: str
    propose: "_Asked | None"
    verify: "_Asked"

    @property
    def duration_ms(self) -> float:
        return (self.ended_ns - self.started_ns) / 1e6

    @property
    def has_draft(self) -> bool:
        """Whether a draft of the service was verified."""
        return self.propose is not None and self.num_draft_tokens > 0 and self.drafter == REMOTE


@dataclass(frozen=True)
class _Asked:
    """One message that was answered: ms that the caller waited, and that the engine had it, decodes of it included."""

    waited_ms: float
    engine_ms: float
    computed_ms: float
    num_decodes: int
    decode_index: int
    batch_rows: int


def look_at(spans: Iterable[Span]) -> Seen:
    """Estimate a scenario from spans. Raises NothingSeenError."""
    cycles = _cycles(list(spans))
    if not cycles:
        raise NothingSeenError("there are no spans of cycles with those of the target's service in them")
    busiest = _busiest(cycles)
    streams = len({cycle.trace_id for cycle in busiest})
    drafted = [cycle for cycle in busiest if cycle.has_draft]
    span_ns = max(cycle.ended_ns for cycle in busiest) - min(cycle.started_ns for cycle in busiest)
    num_tokens = sum(cycle.num_accepted + 1 for cycle in busiest)
    scenario = Scenario(
        0,
        "as seen",
        _costs_of("target", _target_points(busiest)),
        _costs_of("draft", _draft_points(drafted)) if drafted else ModelCosts("none", (Point(1, 1, 0, 1.0),)),
        [_mean(cycle.propose.waited_ms - cycle.propose.engine_ms for cycle in drafted if cycle.propose)] * streams,
        (_acceptance(drafted),),
        target_round_trip_ms=_mean(cycle.verify.waited_ms - cycle.verify.engine_ms for cycle in busiest),
        orchestrator_ms=_mean(_own_ms(busiest)),
    )
    numbers = Counter(cycle.num_draft_tokens for cycle in drafted)
    return Seen(
        scenario,
        numbers.most_common(1)[0][0] if numbers else 0,
        1e9 * num_tokens / span_ns,
        _by_position(drafted),
        len(busiest),
        sum(cycle.drafter in (NGRAM, PREDICTION) for cycle in busiest),
    )


def _cycles(spans: Sequence[Span]) -> list[_Cycle]:
    children: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for span in spans:
        children[span.trace_id, span.parent_id].append(span)

    def asked(cycle: Span, name: str) -> _Asked | None:
        for client in children[cycle.trace_id, cycle.span_id]:
            if client.name == name and (answered := _answered(children[cycle.trace_id, client.span_id])):
                return _asked(client, answered)
        return None

    found = []
    for span in spans:
        told = span.attributes
        if span.name != "cycle" or told.get("outrider.cycle.index", 0) < _FIRST_INDEX:
            continue
        if (verify := asked(span, "verify")) is None:
            continue
        numbers = int(told["outrider.cycle.num_draft_tokens"]), int(told["outrider.cycle.num_accepted"])
        drafter = str(told.get("outrider.cycle.drafter", REMOTE))
        found.append(
            _Cycle(span.trace_id, span.started_ns, span.ended_ns, *numbers, drafter, asked(span, "propose"), verify)
        )
    return sorted(found, key=lambda cycle: cycle.started_ns)


def _answered(servers: Sequence[Span]) -> Mapping[str, Event]:
    """Return the events of the span that tells of an answer, none where there is none."""
    for server in servers:
        events = {event.name: event for event in server.events}
        if "outrider.computed" in events:
            return events
    return {}


def _asked(client: Span, events: Mapping[str, Event]) -> _Asked:
    queued, decode, computed = (events[f"outrider.{name}"] for name in ("queued", "decode", "computed"))
    told: Mapping[str, Any] = decode.attributes
    # What comes before the first decode and is not simulated: other processes on the same cores, and the engine's plan.
    before_ms = sum(computed.attributes.get(f"outrider.{part}_ms", 0.0) for part in ("turn", "planning"))
    return _Asked(
        (client.ended_ns - client.started_ns) / 1e6,
        (computed.time_ns - queued.time_ns) / 1e6,
        (computed.time_ns - decode.time_ns) / 1e6 + before_ms,
        int(told["outrider.num_decodes"]),
        int(told.get("outrider.decode_index", 0)),
        int(told["outrider.batch_rows"]),
    )


def _busiest(cycles: Sequence[_Cycle]) -> list[_Cycle]:
    """Return the cycles that lie in the time in which most requests were under way at once.

    Where there are drafts, only times with some count: the others say nothing of acceptance.
    """
    begin: dict[str, int] = {}
    end: dict[str, int] = {}
    for cycle in cycles:
        begin.setdefault(cycle.trace_id, cycle.started_ns)
        end[cycle.trace_id] = max(cycle.ended_ns, end.get(cycle.trace_id, 0))
    moments = sorted([(at, 1) for at in begin.values()] + [(at, -1) for at in end.values()])
    number = 0
    stretches: list[tuple[int, int, int]] = []
    for (at, change), (next_at, _) in itertools.pairwise(moments):
        number += change
        stretches.append((number, at, next_at))
    drafted = [cycle for cycle in cycles if cycle.has_draft]
    if drafted:
        stretches = [each for each in stretches if _within(drafted, *each[1:])]
    if not stretches:
        return list(cycles)
    _, since, until = max(stretches, key=lambda each: (each[0], each[2] - each[1]))
    return _within(cycles, since, until) or list(cycles)


def _within(cycles: Sequence[_Cycle], since_ns: int, until_ns: int) -> list[_Cycle]:
    return [cycle for cycle in cycles if cycle.started_ns >= since_ns and cycle.ended_ns <= until_ns]


def _target_points(cycles: Sequence[_Cycle]) -> list[Point]:
    """Return what verifications took, by sessions and rows."""
    by_decode: dict[object, list[_Cycle]] = defaultdict(list)
    for number, cycle in enumerate(cycles):
        if cycle.verify.num_decodes == 1:
            by_decode[cycle.verify.decode_index or f"alone {number}"].append(cycle)
    times: dict[tuple[int, int], list[float]] = defaultdict(list)
    for together in by_decode.values():
        sessions = len({cycle.trace_id for cycle in together})
        rows = max(sessions, together[0].verify.batch_rows)
        times[sessions, rows].append(min(cycle.verify.computed_ms for cycle in together))
    return _points(times)


def _draft_points(cycles: Sequence[_Cycle]) -> list[Point]:
    """Return what a draft token took, by the sessions that drafted at once."""
    times: dict[tuple[int, int], list[float]] = defaultdict(list)
    for cycle in cycles:
        if cycle.propose is not None:
            sessions = max(1, cycle.propose.batch_rows)
            times[sessions, sessions].append(cycle.propose.computed_ms / max(1, cycle.propose.num_decodes))
    return _points(times)


def _points(times: Mapping[tuple[int, int], Sequence[float]]) -> list[Point]:
    return [Point(sessions, rows, 0, max(fmean(ms), 1e-3), num_times=len(ms)) for (sessions, rows), ms in times.items()]


def _costs_of(name: str, points: Sequence[Point]) -> ModelCosts:
    return ModelCosts(name, tuple(points))


def _own_ms(cycles: Sequence[_Cycle]) -> Iterable[float]:
    """Return what the orchestrator spent of each cycle by itself, up to the beginning of the next one."""
    last: dict[str, _Cycle] = {}
    for cycle in cycles:
        if (before := last.get(cycle.trace_id)) is not None:
            waited_ms = before.verify.waited_ms + (before.propose.waited_ms if before.propose else 0.0)
            yield (cycle.started_ns - before.started_ns) / 1e6 - waited_ms
        last[cycle.trace_id] = cycle


def _acceptance(cycles: Sequence[_Cycle]) -> float:
    """Return the share of right tokens among those of which it was found out."""
    right = sum(cycle.num_accepted for cycle in cycles)
    wrong = sum(cycle.num_accepted < cycle.num_draft_tokens for cycle in cycles)
    return right / (right + wrong) if right + wrong else 0.0


def _by_position(cycles: Sequence[_Cycle]) -> list[float]:
    most = max((cycle.num_draft_tokens for cycle in cycles), default=0)
    shares = []
    for position in range(most):
        reached = [each for each in cycles if each.num_accepted >= position and each.num_draft_tokens > position]
        if not reached:
            break
        shares.append(sum(each.num_accepted > position for each in reached) / len(reached))
    return shares


def _mean(values: Iterable[float]) -> float:
    return max(0.0, fmean([*values] or [0.0]))
