"""What the target service costs beside the model: its own time, the wire, plain decoding against a bare loop.

`python benchmarks/target_service.py --target PATH [--exact on] [--sessions 1 8] [--num-draft-tokens 0 7]`
prints a JSON line for each measurement. Medians; times in milliseconds.
"""

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from opentelemetry.trace import INVALID_SPAN

from orchestrator.bundled import bundled_pair
from orchestrator.session import RemoteCache
from orchestrator.stack import ServerProcess
from orchestrator.stream import SessionStream
from outrider.v1 import common_pb2, target_pb2, target_pb2_grpc
from services.engine.model import Model
from services.engine.runtime import LlamaRuntime, RuntimeOptions, Segment
from services.frame.channel import open_channel
from services.frame.digest import TokenSequence
from services.frame.health import watch_health

PROMPT = [1, 5, 9, 12, 7, 3, 20, 31]


@dataclass
class Samples:
    """Seconds of each verification: the caller's whole time, the service's own, the model's decodes."""

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
    """Decode over one stream; every draft is wrong from its first token on, so that each cycle commits one token."""
    cache = RemoteCache(name)
    stream: SessionStream[target_pb2.VerifyStreamRequest, target_pb2.VerifyBatchResponse] = SessionStream(
        stub.VerifyStream
    )
    sequence = TokenSequence(PROMPT)
    sampling = common_pb2.Sampling(temperature=temperature, seed=1)
    for cycle in range(num_cycles + 1):
        draft_tokens = [2 + (cycle + index) % 50 for index in range(num_draft_tokens)]
        request_id = cache.next_request_id()
        request = target_pb2.VerifyBatchRequest(
            request_id=request_id,
            context=cache.context(sequence, INVALID_SPAN),
            draft_tokens=draft_tokens,
            sampling=sampling,
        )
        started_s = time.perf_counter()
        reply = await stream.ask(request_id, target_pb2.VerifyStreamRequest(verify=request), None)
        if cycle:  # the first one prefills
            samples.add(time.perf_counter() - started_s, reply.timings)
        cache.learn(sequence, reply.held_length, draft_tokens[: reply.result.num_accepted])
        sequence.extend([*draft_tokens[: reply.result.num_accepted], reply.result.next_token])
    await stream.close()


async def measure(arguments: argparse.Namespace, target: Path) -> None:
    """Start the service and measure every combination."""
    flags = ["--model", str(target), "--exact", arguments.exact, "--log-level", "warning"]
    process = ServerProcess("services.target", [*flags, "--threads", str(arguments.threads)])
    try:
        async with open_channel(await process.start()) as channel:
            async for is_serving in watch_health(channel, "outrider.v1.TargetService"):
                if is_serving:
                    break
            stub = target_pb2_grpc.TargetServiceStub(channel)
            for temperature in arguments.temperatures:
                for num_draft_tokens in arguments.num_draft_tokens:
                    for num_sessions in arguments.sessions:
                        samples = Samples()
                        started_s = time.perf_counter()
                        await asyncio.gather(
                            *(
                                run_session(
                                    stub,
                                    f"{temperature}-{num_draft_tokens}-{num_sessions}-{i}",
                                    arguments.cycles,
                                    num_draft_tokens,
                                    temperature,
                                    samples,
                                )
                                for i in range(num_sessions)
                            )
                        )
                        num_cycles = len(samples.decode_s)
                        line = {
                            "exact": arguments.exact,
                            "temperature": temperature,
                            "num_draft_tokens": num_draft_tokens,
                            "sessions": num_sessions,
                            "cycles_per_s": num_cycles / (time.perf_counter() - started_s),
                        }
                        print(json.dumps(line | samples.report()), flush=True)
    finally:
        await process.stop()


def bare_loop(target: Path, num_tokens: int, threads: int) -> float:
    """Return tokens per second of llama_decode and argmax in a plain loop."""
    model = Model(target)
    runtime = LlamaRuntime(model, RuntimeOptions(num_threads=threads))
    runtime.decode([Segment(0, 0, PROMPT, 1)])
    token = 5
    started_s = time.perf_counter()
    for position in range(len(PROMPT), len(PROMPT) + num_tokens):
        (logits,) = runtime.decode([Segment(0, position, [token], 1)])
        token = int(logits[0].argmax())
    rate = num_tokens / (time.perf_counter() - started_s)
    runtime.close()
    model.close()
    return rate


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
    parser.add_argument("--bare", action="store_true", help="measure the bare loop too")
    arguments = parser.parse_args()
    target = arguments.target or bundled_pair()[0]
    if arguments.bare:
        print(
            json.dumps({"bare_loop_tokens_per_s": bare_loop(target, arguments.cycles, arguments.threads)}), flush=True
        )
    asyncio.run(measure(arguments, target))


if __name__ == "__main__":
    main()
