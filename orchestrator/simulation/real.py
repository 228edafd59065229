"""The same cycles in real time, with real gRPC between processes: what the wire and the orchestrator add.

Decodes are slept through, so that no model is needed and nothing but the rest of a cycle takes the cores.
"""

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import ClassVar

import uvloop

from orchestrator.simulation.engine import ClockRuntime
from orchestrator.simulation.scenario import Scenario
from orchestrator.simulation.services import Propose, Verify, scripts_of
from orchestrator.simulation.streams import Stream, policy_of, run_streams
from outrider.v1 import draft_pb2, draft_pb2_grpc, target_pb2, target_pb2_grpc
from services.engine.scheduling.engine import Engine
from services.frame.program.settings import ServerSettings
from services.frame.rpc.channel import open_channel
from services.frame.rpc.handlers import RpcContext
from services.frame.server import FrameServer

_WARM_UP_S, _LASTS_S = 1.0, 5.0


@dataclass(frozen=True)
class Parts:
    """Where the time of a cycle went, in ms: medians over the cycles of one stream, which has no company.

    `models_ms` is what its decodes cost by the scenario; `services_ms` is what the services took beside: their engines,
    and what the system sleeps too long. `round_trips_ms` are those of draft and target together, with what gRPC and the
    services' event loops do. What is left is the orchestrator's own.
    """

    scenario: int
    variant: str
    num_draft_tokens: int
    num_cycles: int
    cycle_ms: float
    models_ms: float
    services_ms: float
    round_trips_ms: float
    orchestrator_ms: float


class _Settings(ServerSettings, env_prefix="OUTRIDER_SIMULATED_"):
    """A server on a free port."""

    program: ClassVar[str] = "outrider simulate"


def run_real(scenario: Scenario, num_draft_tokens: int, seed: int = 0, seconds: float = _LASTS_S) -> Parts:
    """Run one stream of a scenario for so many seconds; the services are processes of their own on this machine."""
    with _service("target", scenario, seed) as target, _service("draft", scenario, seed) as draft:
        stream = uvloop.run(_generate(scenario, num_draft_tokens, target, draft, seconds))
    return _parts(scenario, num_draft_tokens, stream)


def _parts(scenario: Scenario, num_draft_tokens: int, stream: Stream) -> Parts:
    ended_s = [end_s for end_s, _ in stream.cycles]
    cycles = [cycle for _, cycle in stream.cycles[1:]]
    cycle_ms = median(1e3 * (end - begin) for begin, end in itertools.pairwise(ended_s))
    models_ms = scenario.target.decode_ms(1, num_draft_tokens + 1, 0)
    models_ms += num_draft_tokens * scenario.draft.decode_ms(1, 1, 0)
    computed_ms = median(1e3 * (cycle.draft.computed_s + cycle.verification.computed_s) for cycle in cycles)
    waited_ms = median(1e3 * (cycle.draft.waited_s + cycle.verification.waited_s) for cycle in cycles)
    return Parts(
        scenario.number,
        scenario.variant,
        num_draft_tokens,
        len(cycles),
        cycle_ms,
        models_ms,
        services_ms=computed_ms - models_ms,
        round_trips_ms=waited_ms - computed_ms,
        orchestrator_ms=cycle_ms - waited_ms,
    )


async def _generate(scenario: Scenario, num_draft_tokens: int, target: str, draft: str, seconds: float) -> Stream:
    async with open_channel(target) as to_target, open_channel(draft) as to_draft:
        target_stub, draft_stub = (
            target_pb2_grpc.TargetServiceStub(to_target),
            draft_pb2_grpc.DraftServiceStub(to_draft),
        )
        begin_s = time.perf_counter() + _WARM_UP_S
        policy = policy_of("fixed", num_draft_tokens) if num_draft_tokens else policy_of("plain")
        (stream,) = await run_streams(scenario, target_stub, [draft_stub], policy, begin_s, begin_s + seconds)
        return stream


@contextmanager
def _service(role: str, scenario: Scenario, seed: int) -> Iterator[str]:
    """Run a service in a process of its own; give its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(role, scenario, seed, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        ours.close()
        process.join()


def _serve(role: str, scenario: Scenario, seed: int, told: Connection) -> None:
    uvloop.run(_until_left(role, scenario, seed, told))


async def _until_left(role: str, scenario: Scenario, seed: int, told: Connection) -> None:
    async with FrameServer(_Settings(), _Application(role, scenario, seed)) as server:
        told.send(server.address)
        # Closed by the one who asks, or because that one is gone.
        left = asyncio.Event()
        asyncio.get_running_loop().add_reader(told.fileno(), left.set)
        await left.wait()


class _Application:
    """One service that follows scripts, with a real engine."""

    service_names = ()

    def __init__(self, role: str, scenario: Scenario, seed: int) -> None:
        self._role = role
        self._scenario = scenario
        self._seed = seed
        costs = scenario.target if role == "target" else scenario.draft
        self._engine = Engine(ClockRuntime(costs, time.sleep, scenario.num_streams))

    async def start(self, server: FrameServer) -> None:
        """Serve."""
        self._engine.start()
        scripts = scripts_of(self._scenario, self._seed)
        if self._role == "target":
            server.register(
                target_pb2_grpc.add_TargetServiceServicer_to_server, _Target(Verify(server, self._engine, scripts))
            )
        else:
            server.register(
                draft_pb2_grpc.add_DraftServiceServicer_to_server, _Draft(Propose(server, self._engine, scripts))
            )

    async def stop(self) -> None:
        """End the engine's thread."""
        self._engine.stop()


class _Target(target_pb2_grpc.TargetServiceServicer):
    """Verifies; texts are none of its business."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify

    async def VerifyBatch(
        self, request: target_pb2.VerifyBatchRequest, context: RpcContext
    ) -> target_pb2.VerifyBatchResponse:
        """Verify the draft of a request."""
        return await self._verify.answer(request)

    async def VerifyStream(  # type: ignore[override]  # replies are written to the context
        self, request_iterator: object, context: RpcContext
    ) -> None:
        """Verify for one session until its stream ends."""
        await self._verify.serve(context)

    async def _unserved(self, request: object, context: RpcContext) -> None:
        raise NotImplementedError

    Tokenize = Detokenize = ApplyChatTemplate = _unserved  # type: ignore[assignment]


class _Draft(draft_pb2_grpc.DraftServiceServicer):
    """Proposes."""

    def __init__(self, propose: Propose) -> None:
        self._propose = propose

    async def Propose(self, request: draft_pb2.ProposeRequest, context: RpcContext) -> draft_pb2.ProposeResponse:
        """Propose what a request asks for."""
        return await self._propose.answer(request)

    async def ProposeStream(  # type: ignore[override]  # replies are written to the context
        self, request_iterator: object, context: RpcContext
    ) -> None:
        """Propose for one session until its stream ends."""
        await self._propose.serve(context)
