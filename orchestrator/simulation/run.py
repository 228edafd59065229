"""One simulation: the real cycle of every stream, over the real services' scheduling, in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from orchestrator.drafting.breaker import Breaker
from orchestrator.drafting.draft_view import DraftView
from orchestrator.drafting.drafter import Drafter, FirstDrafter
from orchestrator.drafting.patience import DraftPatience
from orchestrator.drafting.remote import RemoteDrafter
from orchestrator.generation.cycle import LengthPolicy, run_cycles
from orchestrator.generation.speculation import plan_speculation
from orchestrator.generation.statistics import Statistics
from orchestrator.peers.target import TargetSession
from orchestrator.settings import OrchestratorSettings
from orchestrator.simulation.clock import Clock, run_virtual
from orchestrator.simulation.engine import ClockEngine, ClockRuntime
from orchestrator.simulation.scenario import Scenario
from orchestrator.simulation.script import VOCABULARY_SIZE, Script
from orchestrator.simulation.services import Propose, Verify, model_info
from orchestrator.simulation.stream import Door, Link
from outrider.v1 import common_pb2, generation_pb2
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.scheduler import Decode
from services.frame.server import FrameServer
from services.frame.telemetry import Telemetry
from services.session.sequence import TokenSequence

# Streams begin one after the other, by so much of a plain decode: together, they would stay together.
_STAGGER = 0.38
# The share of a simulation that is not measured, as everybody still learns.
_WARM_UP = 0.2


@dataclass
class Stream:
    """What one stream committed: when, and how many tokens."""

    commits: list[tuple[float, int]] = field(default_factory=list)

    def tokens_per_s(self, begin_s: float) -> float:
        """Return the rate from the first commit after `begin_s` to the last one."""
        seen = [commit for commit in self.commits if commit[0] >= begin_s]
        if len(seen) < 2:
            return 0.0
        return sum(num_tokens for _, num_tokens in seen[1:]) / (seen[-1][0] - seen[0][0])


@dataclass
class Outcome:
    """What a simulation came to. Rates are in tokens/s, decodes are the target's verifications once all was warm."""

    rates: list[float]
    statistics: Statistics
    num_decodes: int
    num_decode_rows: int
    num_decode_sessions: int

    @property
    def tokens_per_s(self) -> float:
        """The rates of all streams together."""
        return sum(self.rates)


# Makes the length policy of a generation.
MakePolicy = Callable[[], LengthPolicy]


def policy_of(name: str, num_draft_tokens: int = 0) -> MakePolicy:
    """Return what makes the policy `plain`, `fixed` or `auto`, as the orchestrator makes it for a request."""
    modes = {
        "plain": generation_pb2.SPECULATION_MODE_OFF,
        "fixed": generation_pb2.SPECULATION_MODE_FIXED,
        "auto": generation_pb2.SPECULATION_MODE_AUTO,
    }
    asked = generation_pb2.Speculation(mode=modes[name], num_draft_tokens=num_draft_tokens)
    # As it is without flags and variables, on every machine.
    settings = OrchestratorSettings.model_construct()
    return lambda: plan_speculation(asked, settings).policy


def simulate(scenario: Scenario, make_policy: MakePolicy, seconds: float, seed: int = 0) -> Outcome:
    """Serve the streams of a scenario for so many seconds of virtual time."""
    return run_virtual(lambda clock: _Simulation(clock, scenario, make_policy, seconds, seed).run())


class _DraftService:
    """What all sessions of the draft service share; see `orchestrator.drafting.remote.DraftService`."""

    def __init__(self, door: Door, settings: OrchestratorSettings) -> None:
        self.stub: Any = door
        self.breaker = Breaker(settings.draft_retry_s)
        self.patience = DraftPatience(settings.draft_timeout_s)
        self.model = model_info("draft")

    def suspect(self, model: common_pb2.ModelInfo, reason: str) -> None:
        """Nobody takes its place."""


class _Simulation:
    def __init__(self, clock: Clock, scenario: Scenario, make_policy: MakePolicy, seconds: float, seed: int) -> None:
        self._clock = clock
        self._scenario = scenario
        self._make_policy = make_policy
        self._begin_s = clock.read() + _WARM_UP * seconds
        self._end_s = clock.read() + seconds
        self._scripts = {
            str(index): Script(seed, index, scenario.acceptance, scenario.phase_length)
            for index in range(scenario.num_streams)
        }
        self._decodes: list[Decode] = []
        self._target = Door(self._target_service(), lambda session_id: Link(0.0))
        self._draft = Door(self._draft_service(), self._link_to_draft)
        self._service = _DraftService(self._draft, OrchestratorSettings.model_construct())
        self._statistics = Statistics()

    async def run(self) -> Outcome:
        """Serve all streams and return what came of it."""
        outages = asyncio.ensure_future(self._outages())
        streams = await asyncio.gather(*(self._stream(index) for index in range(self._scenario.num_streams)))
        outages.cancel()
        seen = [each for each in self._decodes if each.is_verification and each.started_s >= self._begin_s]
        return Outcome(
            [stream.tokens_per_s(self._begin_s) for stream in streams],
            self._statistics,
            len(seen),
            sum(decode.num_rows for decode in seen),
            sum(len(decode.sessions) for decode in seen),
        )

    async def _stream(self, index: int) -> Stream:
        one_ms = self._scenario.target.decode_ms(1, 1, 0)
        await asyncio.sleep(index * _STAGGER * one_ms / 1e3)
        telemetry = Telemetry.off()
        sampling = common_pb2.Sampling()
        target = TargetSession(
            cast(Any, self._target),
            str(index),
            sampling,
            telemetry,
            model=model_info("target"),
            describe=_describe_target,
            patience_s=OrchestratorSettings.model_construct().target_patience_s,
            on_verified=self._service.patience.note_cycle,
        )
        view = DraftView(sampling, (), 0)
        drafter: Drafter = FirstDrafter(
            RemoteDrafter(self._service, str(index), view, telemetry, vocabulary_size=VOCABULARY_SIZE)
        )
        sequence = TokenSequence([index])
        stream = Stream()
        cycles = run_cycles(
            sequence, target, drafter, self._make_policy(), max_length=target.limits.context_length, telemetry=telemetry
        )
        async with aclosing(cycles):
            async for cycle in cycles:
                now_s = self._clock.read()
                if now_s >= self._begin_s:
                    self._statistics.count(cycle)
                stream.commits.append((now_s, len(cycle.tokens)))
                if now_s >= self._end_s:
                    break
        self._statistics.num_resyncs += target.num_resyncs + drafter.num_resyncs
        self._statistics.num_fallbacks += drafter.num_fallbacks
        await drafter.close()
        await target.close()
        return stream

    async def _outages(self) -> None:
        """Let the draft be away, and come back with nothing of what it held."""
        if not self._scenario.away_s:
            return
        while True:
            await asyncio.sleep(self._scenario.away_every_s - self._scenario.away_s)
            self._draft.close()
            await asyncio.sleep(self._scenario.away_s)
            self._draft.reopen(self._draft_service())

    def _target_service(self) -> Callable[[Any], Awaitable[None]]:
        scenario = self._scenario
        runtime = ClockRuntime(scenario.target, self._clock.elapse, scenario.num_streams, scenario.max_sessions)
        engine = ClockEngine(self._clock, runtime, self._decodes.append)
        return Verify(_server(), cast(Engine, engine), self._scripts).serve

    def _draft_service(self) -> Callable[[Any], Awaitable[None]]:
        runtime = ClockRuntime(self._scenario.draft, self._clock.elapse, self._scenario.num_streams)
        engine = ClockEngine(self._clock, runtime, lambda decode: None)
        return Propose(_server(), cast(Engine, engine), self._scripts).serve

    def _link_to_draft(self, session_id: str) -> Link:
        scenario = self._scenario
        round_trip_s = scenario.round_trips_ms[int(session_id)] / 1e3
        if not scenario.late_one_in:
            return Link(round_trip_s)
        late_s = scenario.late_ms / 1e3 - round_trip_s
        # One in the middle of each so many.
        return Link(
            round_trip_s, lambda num_sent: late_s * (num_sent % scenario.late_one_in == scenario.late_one_in // 2)
        )


async def _describe_target() -> common_pb2.ModelInfo:
    return model_info("target")


def _server() -> FrameServer:
    """Return what a method asks of its server."""
    return cast(FrameServer, SimpleNamespace(cycle_telemetry=Telemetry.off(), draining=asyncio.Event()))
