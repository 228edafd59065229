"""One simulation: the cycles of all streams and both services' scheduling, in virtual time."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import cast

from orchestrator.generation.statistics import Statistics
from orchestrator.simulation.clock import Clock, run_virtual
from orchestrator.simulation.connection import Door, Link, Serve
from orchestrator.simulation.engine import ClockEngine, ClockRuntime
from orchestrator.simulation.scenario import ModelCosts, Scenario
from orchestrator.simulation.services import Propose, Verify, scripts_of
from orchestrator.simulation.streams import MakePolicy, Stream, run_streams
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.scheduler import Decode
from services.frame.server import FrameServer
from services.frame.telemetry import Telemetry

# The share of a simulation that is not measured, as everybody still learns.
WARM_UP = 0.2


@dataclass(frozen=True)
class Outcome:
    """What a simulation came to, once all was warm. `decodes` are the target's verifications."""

    streams: Sequence[Stream]
    decodes: Sequence[Decode]

    @property
    def tokens_per_s(self) -> float:
        """The rates of all streams together."""
        return sum(stream.tokens_per_s() for stream in self.streams)

    @property
    def statistics(self) -> Statistics:
        """What the cycles of all streams came to."""
        total = Statistics()
        for stream in self.streams:
            for _, cycle in stream.cycles:
                total.count(cycle)
            total.num_resyncs += stream.num_resyncs
            total.num_fallbacks += stream.num_fallbacks
        return total

    @property
    def sessions_per_decode(self) -> float:
        """How many sessions share a decode of the target."""
        return sum(len(decode.sessions) for decode in self.decodes) / max(1, len(self.decodes))


def simulate(scenario: Scenario, make_policy: MakePolicy, seconds: float, seed: int = 0) -> Outcome:
    """Serve the streams of a scenario for so many seconds of virtual time."""
    return run_virtual(lambda clock: _simulate(clock, scenario, make_policy, seconds, seed))


async def _simulate(clock: Clock, scenario: Scenario, make_policy: MakePolicy, seconds: float, seed: int) -> Outcome:
    begin_s, end_s = clock.read() + WARM_UP * seconds, clock.read() + seconds
    scripts = scripts_of(scenario, seed)
    decodes: list[Decode] = []
    engines: list[ClockEngine] = []

    def engine(costs: ModelCosts, max_sessions: int | None, on_decode: Callable[[Decode], object]) -> Engine:
        runtime = ClockRuntime(costs, clock.elapse, scenario.num_streams, max_sessions)
        engines.append(ClockEngine(clock, runtime, on_decode))
        # It has what a method asks of an engine.
        return cast(Engine, engines[-1])

    def draft() -> Serve:
        return Propose(_server(), engine(scenario.draft, None, lambda decode: None), scripts).serve

    target = Verify(_server(), engine(scenario.target, scenario.max_sessions, decodes.append), scripts)
    target_door = Door(target.serve, Link(scenario.target_round_trip_ms / 1e3))
    # Those who are as far away have a draft service of their own.
    doors = {ms: Door(draft(), _link_to_draft(scenario, ms / 1e3)) for ms in sorted({*scenario.round_trips_ms})}
    outages = [asyncio.ensure_future(_outages(scenario, door, draft)) for door in doors.values()]
    drafts = [doors[ms] for ms in scenario.round_trips_ms]
    try:
        streams = await run_streams(scenario, target_door, drafts, make_policy, begin_s, end_s)
    finally:
        for outage in outages:
            outage.cancel()
        for each in engines:
            each.stop()
    return Outcome(streams, [each for each in decodes if each.is_verification and each.started_s >= begin_s])


async def _outages(scenario: Scenario, door: Door, restart: Callable[[], Serve]) -> None:
    """Let the draft be away now and then; it comes back with nothing of what it held."""
    while scenario.away_s:
        await asyncio.sleep(scenario.away_every_s - scenario.away_s)
        door.close()
        await asyncio.sleep(scenario.away_s)
        door.reopen(restart())


def _link_to_draft(scenario: Scenario, round_trip_s: float) -> Link:
    if not scenario.late_one_in:
        return Link(round_trip_s)
    late_s, one_in = scenario.late_ms / 1e3 - round_trip_s, scenario.late_one_in
    # One in the middle of each so many.
    return Link(round_trip_s, lambda num_sent: late_s * (num_sent % one_in == one_in // 2))


def _server() -> FrameServer:
    """Return what a method asks of its server."""
    return cast(FrameServer, SimpleNamespace(cycle_telemetry=Telemetry.off(), draining=asyncio.Event()))
