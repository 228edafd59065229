"""What tracing costs: tokens per second with spans exported over OTLP, against none.

`python benchmarks/tracing.py [--target PATH --draft PATH]` starts two stacks and a collector that only counts, and lets
the stacks take turns at the same requests. It prints a JSON line for each speculation setting: the ratio of the times,
pair by pair, its median and an interval that holds it with 95 % confidence; the processor time of a cycle in all three
processes, and the median of what tracing adds to it, which other programs on the machine disturb less; and what was
received of the spans that were made.
"""

import argparse
import asyncio
import json
import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import AsyncExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import psutil
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.sdk.resources import Resource
from rich.progress import track

from orchestrator.stack.bundled import bundled_pair
from orchestrator.stack.client import generate
from orchestrator.stack.stack import Stack, StackOptions
from outrider.v1 import common_pb2, generation_pb2
from services.frame.telemetry import (
    DEFAULT_EXPORT_DELAY_MS,
    Telemetry,
    TraceHeaders,
    child_span,
    headers_of,
    request_span,
    server_span,
)
from services.frame.telemetry.recording import Recorder

PROMPT = "class Stack:\n    def __init__(self):\n"
MODULES = ("orchestrator", "services.target", "services.draft")
# Longer than exporters wait before they send.
QUIET_S = 2.5 * DEFAULT_EXPORT_DELAY_MS / 1e3


class Collector:
    """A collector in another process. It keeps what it is sent and reads it only when asked for counts."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_collect, args=(theirs,), daemon=True)
        self._process.start()
        self.endpoint = f"http://127.0.0.1:{self._pipe.recv()}"

    def num_exports(self) -> int:
        """Return how often something was sent."""
        return self._ask("exports")

    def take_spans(self) -> int:
        """Return how many spans came since the last time."""
        return self._ask("spans")

    async def quiet(self) -> None:
        """Return once nothing has come for a while."""
        before = -1
        while (now := self.num_exports()) != before:
            before = now
            await asyncio.sleep(QUIET_S)

    def close(self) -> None:
        """Stop it."""
        self._pipe.close()
        self._process.join()

    def _ask(self, question: str) -> int:
        self._pipe.send(question)
        answer: int = self._pipe.recv()
        return answer


def _collect(pipe: Connection) -> None:
    """Serve until the pipe closes."""
    received: list[bytes] = []
    num_exports = 0

    def export(request: bytes, context: grpc.ServicerContext) -> bytes:
        nonlocal num_exports
        num_exports += 1
        received.append(request)
        return b""

    handler = grpc.method_handlers_generic_handler(
        "opentelemetry.proto.collector.trace.v1.TraceService",
        {"Export": grpc.unary_unary_rpc_method_handler(export)},
    )
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[handler])
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    try:
        while True:
            if pipe.recv() == "exports":
                pipe.send(num_exports)
            else:
                requests = [trace_service_pb2.ExportTraceServiceRequest.FromString(each) for each in received]
                received.clear()
                scopes = [scope for each in requests for of in each.resource_spans for scope in of.scope_spans]
                pipe.send(sum(len(scope.spans) for scope in scopes))
    except EOFError:
        server.stop(None).wait()


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Let processes that are started in the block have these variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


async def ask(address: str, request: generation_pb2.GenerateRequest) -> generation_pb2.GenerateSummary:
    """Generate and return the summary."""
    summary = generation_pb2.GenerateSummary()
    async for message in generate(address, request):
        if message.HasField("summary"):
            summary = message.summary
    return summary


def cpu_s(stack: Stack) -> float:
    """Return the processor time that its processes have taken."""
    times = [psutil.Process(stack.pid(module)).cpu_times() for module in MODULES]
    return sum(each.user + each.system for each in times)


def num_spans(summary: generation_pb2.GenerateSummary) -> int:
    """Return how many spans a request makes where nothing is asked twice."""
    counts = summary.speculation
    return 1 + 3 * counts.num_cycles + 2 * counts.num_drafts


def report(off_ms: Sequence[float], on_ms: Sequence[float], num_tokens: int) -> dict[str, float | list[float]]:
    """Return speeds and the ratio of times, on over off, each pair the same request."""
    ratios = sorted(on / off for off, on in zip(off_ms, on_ms, strict=True))
    # Of the sorted ratios, those between which the median lies with 95 % confidence.
    rank = max(0, math.floor(len(ratios) / 2 - 0.98 * math.sqrt(len(ratios))))
    return {
        "off_tokens_per_s": round(num_tokens / sum(off_ms) * 1e3, 1),
        "on_tokens_per_s": round(num_tokens / sum(on_ms) * 1e3, 1),
        "cost_percent": round((statistics.median(ratios) - 1) * 100, 2),
        "cost_percent_between": [round((ratios[at] - 1) * 100, 2) for at in (rank, -rank - 1)],
    }


async def measure(arguments: argparse.Namespace, target: Path, draft: Path) -> None:
    """Start both stacks and print a line for plain and for speculative decoding."""
    threads = ("--threads", str(arguments.threads))
    options = StackOptions(
        target, draft, log_level="error", target_flags=(*threads, "--exact", "off"), draft_flags=threads
    )
    collector = Collector()
    async with AsyncExitStack() as running:
        running.callback(collector.close)
        stacks = {}
        for name, exporter in (("off", "none"), ("on", "otlp")):
            with environment(
                OTEL_TRACES_EXPORTER=exporter,
                OTEL_METRICS_EXPORTER="none",
                OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            ):
                stacks[name] = await running.enter_async_context(Stack(options))
            await stacks[name].wait_ready()
        for num_draft_tokens in (0, arguments.num_draft_tokens):
            print(json.dumps(await compare(arguments, collector, stacks, num_draft_tokens)), flush=True)


async def compare(
    arguments: argparse.Namespace, collector: Collector, stacks: dict[str, Stack], num_draft_tokens: int
) -> dict[str, object]:
    """Let the stacks take turns; return the comparison."""
    mode = generation_pb2.SPECULATION_MODE_FIXED if num_draft_tokens else generation_pb2.SPECULATION_MODE_OFF
    milliseconds: dict[str, list[float]] = {"off": [], "on": []}
    cpu_ms: dict[str, list[float]] = {"off": [], "on": []}
    num_tokens = num_made = 0
    collector.take_spans()
    for seed in track(range(arguments.pairs), f"{num_draft_tokens} draft tokens"):
        request = generation_pb2.GenerateRequest(
            text=PROMPT,
            max_tokens=arguments.max_tokens,
            seed=seed,
            sampling=common_pb2.Sampling(temperature=0.8),
            speculation=generation_pb2.Speculation(mode=mode, num_draft_tokens=num_draft_tokens),
        )
        for name in ("off", "on") if seed % 2 else ("on", "off"):
            # Not timed: while the next one runs, what this one left is sent, as it would be in the long run.
            first = await ask(stacks[name].address, request)
            before_s = cpu_s(stacks[name])
            summary = await ask(stacks[name].address, request)
            spent_ms = (cpu_s(stacks[name]) - before_s) * 1e3
            cpu_ms[name].append(spent_ms / summary.speculation.num_cycles)
            milliseconds[name].append(summary.timings.total_ms)
            if name == "on":
                await collector.quiet()
                num_made += num_spans(first) + num_spans(summary)
        num_tokens += summary.usage.num_generated_tokens
    return {
        "num_draft_tokens": num_draft_tokens,
        **report(milliseconds["off"], milliseconds["on"], num_tokens),
        "cpu_ms_per_cycle": {
            "off": round(statistics.median(cpu_ms["off"]), 3),
            "added": round(statistics.median(on - off for off, on in zip(cpu_ms["off"], cpu_ms["on"], strict=True)), 3),
        },
        "spans": {"made": num_made, "received": collector.take_spans()},
    }


def recording_us(telemetry: Telemetry, repetitions: int = 20, num_cycles: int = 500) -> float:
    """Return what the five spans of a cycle take in this process, in microseconds; the least of some repetitions."""

    def cycles() -> float:
        with request_span(telemetry, "request", TraceHeaders()):
            started_s = time.perf_counter()
            for index in range(num_cycles):
                with child_span(telemetry, "cycle") as cycle:
                    for message in ("propose", "verify"):
                        with child_span(telemetry, message) as span:
                            headers = headers_of(span)
                        with server_span(telemetry, f"its {message}", headers) as span:
                            if span.is_recording():
                                for event in ("queued", "decode", "computed"):
                                    span.add_event(event, {"batch_rows": index})
                    cycle.set_attributes({"index": index, "num_accepted": 4, "drafter": "remote"})
            return (time.perf_counter() - started_s) / num_cycles

    return round(min(cycles() for _ in range(repetitions)) * 1e6, 1)


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--target", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--num-draft-tokens", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=40)
    arguments = parser.parse_args()
    recording = {"off": recording_us(Telemetry.off()), "on": recording_us(Telemetry(Recorder(Resource({}), [])))}
    print(json.dumps({"recording_us_per_cycle": recording}), flush=True)
    pair = (arguments.target, arguments.draft) if arguments.target and arguments.draft else bundled_pair()
    asyncio.run(measure(arguments, *pair))


if __name__ == "__main__":
    main()
