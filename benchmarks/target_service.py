"""What the target service costs beside the model: its own time, the wire, plain decoding against a bare loop.

`python benchmarks/target_service.py --target PATH [--exact on] [--sessions 1 8] [--num-draft-tokens 0 7]`
prints a JSON line for each measurement; `--turns 7 --cycles 16` takes turns with a bare loop instead. Medians; times in
milliseconds.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from opentelemetry.trace import INVALID_SPAN

from orchestrator.stack.bundled import bundled_pair
from orchestrator.stack.process import ServerProcess
from outrider.v1 import common_pb2, target_pb2, target_pb2_grpc
from services.engine.model.model import Model
from services.engine.runtime.interface import Segment
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.frame.rpc.channel import open_channel
from services.frame.rpc.health import watch_health
from services.session.client import ServiceSession
from services.session.sequence import TokenSequence

PROMPT = [1, 5, 9, 12, 7, 3, 20, 31]


@dataclass
class Samples:
    """Seconds of each verification: the caller's whole time, the service's own, the model's decodes."""

    prefilled: asyncio.Barrier
    started_s: float = 0.0
    round_trip_s: list[float] = field(default_factory=list)
    service_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)

    def add(self, round_trip_s: float, timings: common_pb2.Timings) -> None:
        """Count one verification."""
        self.round_trip_s.append(round_trip_s)
        self.service_s.append((timings.queued_ms + timings.computed_ms) / 1e3)
        self.decode_s.append(timings.decode_ms / 1e3)

    def report(self) -> dict[str, float]:
        """Return medians in milliseconds."""
        outside = [service - decode for service, decode in zip(self.service_s, self.decode_s, strict=True)]
        wire = [total - decode for total, decode in zip(self.round_trip_s, self.decode_s, strict=True)]
        return {
            "decode_ms": 1e3 * statistics.median(self.decode_s),
            "service_outside_decode_ms": 1e3 * statistics.median(outside),
            "round_trip_minus_decode_ms": 1e3 * statistics.median(wire),
        }


async def run_session(
    stub: target_pb2_grpc.TargetServiceStub,
    name: str,
    num_cycles: int,
    num_draft_tokens: int,
    temperature: float,
    samples: Samples,
) -> None:
    """Decode over one stream; every draft is wrong from its first token on, so that each cycle commits one token.

    Sessions wait for each other once their prompts are evaluated.
    """
    session: ServiceSession[target_pb2.VerifyStreamRequest, target_pb2.VerifyBatchResponse] = ServiceSession(
        name, stub.VerifyStream
    )
    sequence = TokenSequence(PROMPT)
    sampling = common_pb2.Sampling(temperature=temperature, seed=1)
    for cycle in range(num_cycles + 1):
        draft_tokens = [2 + (cycle + index) % 50 for index in range(num_draft_tokens)]
        request_id = session.next_request_id()
        request = target_pb2.VerifyBatchRequest(
            request_id=request_id,
            context=session.context(sequence, INVALID_SPAN),
            draft_tokens=draft_tokens,
            sampling=sampling,
        )
        started_s = time.perf_counter()
        reply = await session.exchange(request_id, target_pb2.VerifyStreamRequest(verify=request), None)
        if cycle:
            samples.add(time.perf_counter() - started_s, reply.timings)
        else:
            await samples.prefilled.wait()
            samples.started_s = time.perf_counter()
        session.learn(sequence, reply.held_length, draft_tokens[: reply.result.num_accepted])
        sequence.extend([*draft_tokens[: reply.result.num_accepted], reply.result.next_token])
    await session.close()


@asynccontextmanager
async def served(arguments: argparse.Namespace, target: Path) -> AsyncIterator[target_pb2_grpc.TargetServiceStub]:
    """Start the service and stop it at the end."""
    flags = ["--model", str(target), "--exact", arguments.exact, "--log-level", "warning"]
    process = ServerProcess("services.target", [*flags, "--threads", str(arguments.threads)])
    try:
        async with open_channel(await process.start()) as channel:
            async for is_serving in watch_health(channel, "outrider.v1.TargetService"):
                if is_serving:
                    break
            yield target_pb2_grpc.TargetServiceStub(channel)
    finally:
        await process.stop()


async def measure(arguments: argparse.Namespace, target: Path) -> None:
    """Measure every combination."""
    async with served(arguments, target) as stub:
        cases = itertools.product(arguments.temperatures, arguments.num_draft_tokens, arguments.sessions)
        for number, (temperature, num_draft_tokens, num_sessions) in enumerate(cases):
            samples = Samples(asyncio.Barrier(num_sessions))
            await asyncio.gather(
                *(
                    run_session(stub, f"{number} {i}", arguments.cycles, num_draft_tokens, temperature, samples)
                    for i in range(num_sessions)
                )
            )
            num_cycles = len(samples.decode_s)
            line = {
                "exact": arguments.exact,
                "temperature": temperature,
                "num_draft_tokens": num_draft_tokens,
                "sessions": num_sessions,
                "cycles_per_s": num_cycles / (time.perf_counter() - samples.started_s),
            }
            print(json.dumps(line | samples.report()), flush=True)


async def measure_beside_bare_loop(arguments: argparse.Namespace, target: Path) -> None:
    """Take turns: so many tokens by the service, as many by a bare loop, for one session."""
    rates: dict[str, list[float]] = {"served": [], "bare": []}
    with bare_loop(target, arguments.threads) as decode:
        async with served(arguments, target) as stub:
            for turn in range(arguments.turns + 1):
                samples = Samples(asyncio.Barrier(1))
                await run_session(stub, f"turn {turn}", arguments.cycles, 0, 0.0, samples)
                bare_s = decode(arguments.cycles)
                if turn:  # the first warms up
                    rates["served"].append(arguments.cycles / sum(samples.round_trip_s))
                    rates["bare"].append(arguments.cycles / bare_s)
    ratios = [served / bare for served, bare in zip(rates["served"], rates["bare"], strict=True)]
    line = {f"{name}_tokens_per_s": statistics.median(values) for name, values in rates.items()}
    print(json.dumps(line | {"ratio": statistics.median(ratios), "ratios": ratios}), flush=True)


@contextmanager
def bare_loop(target: Path, threads: int) -> Iterator[Callable[[int], float]]:
    """Give what decodes so many tokens, with llama_decode and argmax in a plain loop, and returns the seconds."""
    model = Model(target)
    runtime = LlamaRuntime(model, RuntimeOptions(num_threads=threads))

    def decode(num_tokens: int) -> float:
        runtime.cut(0, 0)
        runtime.decode([Segment(0, 0, PROMPT, 1)])
        token = 5
        started_s = time.perf_counter()
        for position in range(len(PROMPT), len(PROMPT) + num_tokens):
            (logits,) = runtime.decode([Segment(0, position, [token], 1)])
            token = int(logits[0].argmax())
        return time.perf_counter() - started_s

    yield decode
    runtime.close()
    model.close()


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", type=Path)
    parser.add_argument("--exact", choices=("on", "off"), default="off")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--num-draft-tokens", type=int, nargs="+", default=[0, 7])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0])
    parser.add_argument("--turns", type=int, default=0, help="take so many turns with a bare loop, one session")
    arguments = parser.parse_args()
    target = arguments.target or bundled_pair()[0]
    measuring = measure_beside_bare_loop if arguments.turns else measure
    asyncio.run(measuring(arguments, target))


if __name__ == "__main__":
    main()
