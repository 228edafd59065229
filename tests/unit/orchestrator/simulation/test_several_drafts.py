"""Several draft services in virtual time: the better one is used, the other is looked at in a hundredth of the time."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.drafting.draft_pool import DraftPool
from orchestrator.drafting.draft_view import DraftView
from orchestrator.drafting.drafter import REMOTE
from orchestrator.drafting.experience import Experience
from orchestrator.drafting.remote import RemoteDrafter
from orchestrator.generation.cycle import Cycle, run_cycles
from orchestrator.peers.target import TargetSession
from orchestrator.simulation.clock import Clock, run_virtual
from orchestrator.simulation.connection import Door, Link, Serve
from orchestrator.simulation.engine import ClockEngine, ClockRuntime
from orchestrator.simulation.scenario import LinearCosts, ModelCosts, Scenario, TokenCosts, scenarios
from orchestrator.simulation.script import VOCABULARY_SIZE
from orchestrator.simulation.services import Propose, Verify, model_info, scripts_of
from orchestrator.simulation.streams import DraftService, policy_of
from outrider.v1 import common_pb2
from services.engine.scheduling.engine import Engine
from services.frame.server import FrameServer
from services.frame.telemetry import Telemetry
from services.session.sequence import TokenSequence

TARGET = LinearCosts(20, 0.3)
# Their places. The weak one is right half of the time, the good one nine times of ten.
WEAK, GOOD = 0, 1
ACCEPTANCES = (0.5, 0.9)
MOST_EXPLORED = 0.01


@dataclass
class Changing:
    """A draft whose tokens take as long as they take at the moment."""

    token_ms: float

    def decode_ms(self, num_sessions: int, num_rows: int, context: int) -> float:
        return TokenCosts(self.token_ms).decode_ms(num_sessions, num_rows, context)


@dataclass
class Run:
    """Requests of the same text one after the other, for as long as the course that is called with it lasts.

    Before them were requests for `elapsed_s`, of which the time for exploration is left.
    """

    slow_ms: float = 4.0
    elapsed_s: float = 0.0
    scenario: Scenario = field(default_factory=lambda: scenarios()[0])
    cycles: list[Cycle] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.costs = [Changing(1.0), Changing(self.slow_ms)]
        self.doors: list[Door] = []
        self.services: list[DraftService] = []
        self.experience = Experience()

    def __call__(self, course: Callable[["Run"], Coroutine[Any, Any, None]]) -> "Run":
        run_virtual(lambda clock: self._run(clock, course))
        return self

    def services_used(self) -> list[int | None]:
        """Who was asked in each cycle, none where nobody was."""
        return [cycle.draft.service if cycle.draft.drafter == REMOTE else None for cycle in self.cycles]

    def share_of(self, service: int, begin: int = 0, end: int | None = None) -> float:
        """Of the time of some cycles, the share that drafts of a service took."""
        cycles = self.cycles[begin:end]
        spent_s = sum(cycle.draft.waited_s + cycle.verification.waited_s for cycle in cycles)
        drafts = [cycle.draft for cycle in cycles if cycle.draft.drafter == REMOTE and cycle.draft.service == service]
        return sum(draft.waited_s for draft in drafts) / spent_s

    async def _run(self, clock: Clock, course: Callable[["Run"], Coroutine[Any, Any, None]]) -> None:
        engines: list[ClockEngine] = []

        def engine(costs: ModelCosts) -> Engine:
            engines.append(ClockEngine(clock, ClockRuntime(costs, clock.elapse, 1), lambda decode: None))
            return cast(Engine, engines[-1])

        def draft(service: int) -> Serve:
            scripts = scripts_of(replace(self.scenario, acceptance=(ACCEPTANCES[service],)), 0)
            return Propose(_server(), engine(self.costs[service]), scripts).serve

        target = Door(Verify(_server(), engine(TARGET), scripts_of(self.scenario, 0)).serve, Link(0.0))
        self.doors = [Door(draft(service), Link(0.0005)) for service in (WEAK, GOOD)]
        self.services = [DraftService(door) for door in self.doors]
        for name, service in zip(("weak:1", "good:1"), self.services, strict=True):
            service.address = name
        self.experience = Experience(self.services)
        self.experience.exploration.elapse(self.elapsed_s, most_saved_s=1.0)
        changes = asyncio.ensure_future(course(self))
        while not changes.done():
            await self._request(target, changes)
        await changes
        for each in engines:
            each.stop()

    async def _request(self, target_stub: Any, changes: "asyncio.Future[None]") -> None:
        sampling, telemetry = common_pb2.Sampling(), Telemetry.off()
        target = TargetSession(
            target_stub, "0", sampling, telemetry, model=model_info("target"), describe=_describe, patience_s=1.0
        )
        sessions = [
            RemoteDrafter(service, "0", DraftView(sampling, (), 0), telemetry, vocabulary_size=VOCABULARY_SIZE)
            for service in self.services
        ]
        pool, policy = DraftPool(*sessions), policy_of("auto")(self.experience)
        sequence = TokenSequence([0])
        cycles = run_cycles(sequence, target, pool, policy, max_length=2000, telemetry=telemetry)
        async with aclosing(cycles):
            async for cycle in cycles:
                self.cycles.append(cycle)
                if changes.done():
                    break
        await pool.close()
        await target.close()
        script = scripts_of(self.scenario, 0)["0"]
        assert sequence.tokens[1:] == [script.token(place) for place in range(1, len(sequence))], "the target's text"


async def _describe() -> common_pb2.ModelInfo:
    return model_info("target")


def _server() -> FrameServer:
    return cast(FrameServer, SimpleNamespace(cycle_telemetry=Telemetry.off(), draining=asyncio.Event()))


def share(used: Sequence[int | None], service: int) -> float:
    return used.count(service) / len(used)


def switches(used: Sequence[int | None]) -> int:
    asked = [service for service in used if service is not None]
    return sum(before != after for before, after in pairwise(asked))


async def nothing_happens(run: Run) -> None:
    await asyncio.sleep(45)


@pytest.mark.parametrize(
    ("slow_ms", "better"), [pytest.param(4.0, GOOD, id="not too slow"), pytest.param(15.0, WEAK, id="too slow")]
)
def test_the_better_one_is_used(slow_ms: float, better: int) -> None:
    run = Run(slow_ms=slow_ms)(nothing_happens)
    used = run.services_used()
    assert run.experience.choice is not None
    assert run.experience.choice.draft_address == ("weak:1", "good:1")[better]
    settled = len(used) * 4 // 5
    assert share(used[settled:], better) > 0.9
    assert switches(used) <= len(used) / 20
    other = WEAK + GOOD - better
    assert used.count(other) > 0, "it was tried"
    # The weak one is the first one, and used until more is known.
    assert run.share_of(other, begin=0 if better == WEAK else settled) <= MOST_EXPLORED


def test_another_one_is_used_once_it_is_better() -> None:
    ends: list[int] = []

    async def course(run: Run) -> None:
        for token_ms, seconds in ((4.0, 8), (15.0, 8), (4.0, 40)):
            run.costs[GOOD].token_ms = token_ms
            await asyncio.sleep(seconds)
            ends.append(len(run.cycles))

    run = Run(elapsed_s=60)(course)
    used = run.services_used()
    parts = [used[begin:end] for begin, end in pairwise([0, *ends])]
    settled = [part[-len(part) // 5 :] for part in parts]
    assert [share(part, service) > 0.9 for part, service in zip(settled, (GOOD, WEAK, GOOD), strict=True)] == [True] * 3
    assert switches(used) <= len(used) / 20


def test_one_that_is_lost_is_left_at_once_and_taken_up_again() -> None:
    lost: list[int] = []

    async def course(run: Run) -> None:
        await asyncio.sleep(8)
        run.services[GOOD].breaker.disable("it is away")
        lost.append(len(run.cycles))
        await asyncio.sleep(5)
        lost.append(len(run.cycles))
        run.services[GOOD].breaker.enable()
        await asyncio.sleep(10)

    used = Run(elapsed_s=60)(course).services_used()
    assert used[lost[0] - 1] == GOOD
    assert set(used[lost[0] + 1 : lost[1]]) == {WEAK}
    assert share(used[lost[1] + 100 :], GOOD) > 0.8
