"""Streams a generation: the text to stdout as it comes, one line of statistics to stderr at the end."""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator

import grpc
from retry_info import retry_delay_s
from terminal import printable, write

from outrider.v1 import common_pb2, generation_pb2, generation_pb2_grpc

OPTIONS = [
    # A server that has vanished or stopped is given up after 25 s; it allows a ping every 10 s.
    ("grpc.keepalive_time_ms", 20_000),
    # The first decides, the second in versions of gRPC as old as 1.51.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # An http_proxy in the environment is for the world outside, and cannot reach this machine's own address.
    ("grpc.enable_http_proxy", 0),
]


async def generate(
    stub: generation_pb2_grpc.GenerationServiceStub, request: generation_pb2.GenerateRequest, timeout_s: float
) -> AsyncIterator[generation_pb2.GenerateResponse]:
    """Yield the messages of an answer. While nothing has come, tries again where the server says when."""
    deadline_s = time.monotonic() + timeout_s
    told = ""
    while True:
        has_begun = False
        try:
            async for message in stub.Generate(request, timeout=deadline_s - time.monotonic()):
                has_begun = True
                yield message
            return
        except grpc.aio.AioRpcError as error:
            delay_s = retry_delay_s(error)
            if has_begun or delay_s is None:
                raise
            if told != error.details():
                told = error.details() or ""
                print(f"waiting: {told}", file=sys.stderr)
            await asyncio.sleep(delay_s)


def statistics(summary: generation_pb2.GenerateSummary) -> str:
    """Return the summary in one line."""
    num_tokens, counts = summary.usage.num_generated_tokens, summary.speculation
    return (
        f"{num_tokens} tokens, {num_tokens / summary.timings.total_ms * 1e3:.1f} tokens/s, "
        f"{counts.num_accepted_tokens} of {counts.num_draft_tokens} draft tokens accepted, seed {summary.seed}"
    )


async def main(settings: argparse.Namespace) -> int:
    request = generation_pb2.GenerateRequest(
        text=settings.prompt,
        max_tokens=settings.max_tokens,
        sampling=common_pb2.Sampling(temperature=settings.temperature),
        seed=settings.seed,
    )
    async with grpc.aio.insecure_channel(settings.address, options=OPTIONS) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        try:
            async for message in generate(stub, request, settings.timeout):
                if message.HasField("chunk"):
                    write(message.chunk.text)
                else:
                    print(f"\n{statistics(message.summary)}", file=sys.stderr)
        except grpc.aio.AioRpcError as error:
            print(f"{error.code().name}: {printable(error.details() or '')}", file=sys.stderr)
            return 1
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("--address", default="127.0.0.1:50050", help="a running orchestrator")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, help="the same seed gives the same text; drawn if absent")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for the whole answer")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(parse())))
    except KeyboardInterrupt:  # asyncio has cancelled the call, and with it the work behind it
        sys.exit(130)
