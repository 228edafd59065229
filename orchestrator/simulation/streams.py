"""The orchestrator's side of a simulation: a real cycle for every stream, with real sessions of both services."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from orchestrator.drafting.draft_view import DraftView
from orchestrator.drafting.drafter import Breaker
from orchestrator.drafting.experience import Experience
from orchestrator.drafting.patience import DraftPatience
from orchestrator.drafting.remote import RemoteDrafter
from orchestrator.generation.cycle import Cycle, LengthPolicy, run_cycles
from orchestrator.generation.speculation import plan_speculation
from orchestrator.peers.target import TargetSession
from orchestrator.settings import OrchestratorSettings
from orchestrator.simulation.scenario import Scenario
from orchestrator.simulation.script import VOCABULARY_SIZE
from orchestrator.simulation.services import model_info
from outrider.v1 import common_pb2, generation_pb2
from services.frame.telemetry import Telemetry
from services.session.sequence import TokenSequence

# Streams begin one after the other, by so much of a plain decode: together, they would stay together.
_STAGGER = 0.38
# Makes the length policy of a generation.
MakePolicy = Callable[[Experience], LengthPolicy]


@dataclass
class Stream:
    """What one stream committed: when a cycle ended, in seconds of `time.perf_counter`, and the cycle."""

    cycles: list[tuple[float, Cycle]] = field(default_factory=list)
    num_resyncs: int = 0
    num_fallbacks: int = 0

    def tokens_per_s(self) -> float:
        """Return the rate from the end of the first cycle to the end of the last one."""
        if len(self.cycles) < 2:
            return 0.0
        num_tokens = sum(len(cycle.tokens) for _, cycle in self.cycles[1:])
        return num_tokens / (self.cycles[-1][0] - self.cycles[0][0])


class DraftService:
    """What all sessions of the draft service share; see `orchestrator.drafting.remote.DraftService`."""

    def __init__(self, stub: Any) -> None:
        settings = default_settings()
        self.address = ""
        self.stub = stub
        self.breaker = Breaker(settings.draft_retry_s)
        self.patience = DraftPatience(settings.draft_timeout_s)
        self.model = model_info("draft")
        self.experience = Experience()

    def suspect(self, model: common_pb2.ModelInfo, reason: str) -> None:
        """Nobody takes its place."""

    def doubt(self) -> None:
        """It is there."""

    def note_problem(self, problem: str) -> None:
        """Nobody looks at it."""


def default_settings() -> OrchestratorSettings:
    """Return the settings of the orchestrator as they are without flags and variables, on every machine."""
    return OrchestratorSettings.model_construct()


def policy_of(name: str, num_draft_tokens: int = 0) -> MakePolicy:
    """Return what makes the policy `plain`, `fixed` or `auto`, as the orchestrator makes it for a request."""
    modes = {
        "plain": generation_pb2.SPECULATION_MODE_OFF,
        "fixed": generation_pb2.SPECULATION_MODE_FIXED,
        "auto": generation_pb2.SPECULATION_MODE_AUTO,
    }
    asked = generation_pb2.Speculation(mode=modes[name], num_draft_tokens=num_draft_tokens)
    return lambda experience: plan_speculation(asked, default_settings(), experience).policy


async def run_streams(
    scenario: Scenario,
    target_stub: Any,
    draft_stubs: Sequence[Any],
    make_policy: MakePolicy,
    begin_s: float,
    end_s: float,
) -> Sequence[Stream]:
    """Generate with every stream of a scenario until `end_s`; return what they did from `begin_s` on.

    `draft_stubs` has the stub of each stream's draft. Those who have the same one share an orchestrator.
    """
    services = {stub: DraftService(stub) for stub in draft_stubs}
    return await asyncio.gather(
        *(
            _run(scenario, index, target_stub, services[stub], make_policy(services[stub].experience), begin_s, end_s)
            for index, stub in enumerate(draft_stubs)
        )
    )


async def _run(
    scenario: Scenario,
    index: int,
    target_stub: Any,
    service: DraftService,
    policy: LengthPolicy,
    begin_s: float,
    end_s: float,
) -> Stream:
    await asyncio.sleep(index * _STAGGER * scenario.target.decode_ms(1, 1, 0) / 1e3)
    sampling, telemetry = common_pb2.Sampling(), Telemetry.off()
    target = TargetSession(
        target_stub,
        str(index),
        sampling,
        telemetry,
        model=model_info("target"),
        describe=_describe_target,
        patience_s=default_settings().target_patience_s,
        on_verified=[service.patience.note_cycle],
    )
    view = DraftView(sampling, (), 0)
    drafter = RemoteDrafter(service, str(index), view, telemetry, vocabulary_size=VOCABULARY_SIZE)
    stream = Stream()
    most = target.limits.context_length
    cycles = run_cycles(TokenSequence([index]), target, drafter, policy, max_length=most, telemetry=telemetry)
    async with aclosing(cycles):
        async for cycle in cycles:
            now_s = time.perf_counter()
            if now_s >= begin_s:
                stream.cycles.append((now_s, cycle))
            if now_s >= end_s:
                break
            if scenario.orchestrator_ms:
                await asyncio.sleep(scenario.orchestrator_ms / 1e3)
    await drafter.close()
    await target.close()
    stream.num_resyncs = target.num_resyncs + drafter.num_resyncs
    stream.num_fallbacks = drafter.num_fallbacks
    return stream


async def _describe_target() -> common_pb2.ModelInfo:
    return model_info("target")
