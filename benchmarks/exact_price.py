"""What `--exact on` costs: tokens per second with it and without, plain and drafted, for one request and for several.

`python benchmarks/exact_price.py [--target PATH --draft PATH]` runs both systems side by side, asks one after the other
in turn, and prints a table of medians. The ratio is the median of the rounds' ratios.
"""

import argparse
import asyncio
import itertools
import statistics
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path

from orchestrator.stack.bundled import bundled_pair
from orchestrator.stack.client import generate
from orchestrator.stack.stack import Stack, StackOptions
from outrider.v1 import common_pb2, generation_pb2

PROMPT = "class Stack:\n    def __init__(self):\n"
EXACT = ("off", "on")


async def tokens_per_s(address: str, num_requests: int, num_draft_tokens: int, max_tokens: int) -> float:
    """Return the tokens per second of so many requests at once, all together."""
    fixed, off = generation_pb2.SPECULATION_MODE_FIXED, generation_pb2.SPECULATION_MODE_OFF
    speculation = generation_pb2.Speculation(mode=fixed if num_draft_tokens else off, num_draft_tokens=num_draft_tokens)

    async def ask(seed: int) -> int:
        request = generation_pb2.GenerateRequest(
            text=PROMPT,
            max_tokens=max_tokens,
            seed=seed,
            sampling=common_pb2.Sampling(temperature=0.8),
            speculation=speculation,
        )
        answers = [message async for message in generate(address, request)]
        return answers[-1].summary.usage.num_generated_tokens

    began = time.perf_counter()
    num_tokens = await asyncio.gather(*(ask(seed) for seed in range(num_requests)))
    return sum(num_tokens) / (time.perf_counter() - began)


async def measure(arguments: argparse.Namespace, target: Path, draft: Path) -> None:
    """Start both systems, measure in turns, print the table."""
    cases = list(itertools.product((1, arguments.requests), (0, arguments.num_draft_tokens)))
    found: dict[tuple[int, int], dict[str, list[float]]] = defaultdict(lambda: {exact: [] for exact in EXACT})
    async with AsyncExitStack() as running:
        stacks = {}
        for exact in EXACT:
            options = StackOptions(target, draft, log_level="error", target_flags=("--exact", exact))
            stacks[exact] = await running.enter_async_context(Stack(options))
            await stacks[exact].wait_ready()
        for round_number in range(arguments.rounds + 1):
            for case, exact in itertools.product(cases, EXACT):
                num_requests, num_draft_tokens = case
                rate = await tokens_per_s(stacks[exact].address, num_requests, num_draft_tokens, arguments.max_tokens)
                if round_number:  # the first warms up
                    found[case][exact].append(rate)
    print("| requests at once | draft tokens | tokens/s, off | tokens/s, on | on / off |")
    print("|---|---|---|---|---|")
    for (num_requests, num_draft_tokens), rates in found.items():
        ratio = statistics.median(on / off for off, on in zip(rates["off"], rates["on"], strict=True))
        off, on = (statistics.median(rates[exact]) for exact in EXACT)
        print(f"| {num_requests} | {num_draft_tokens} | {off:.1f} | {on:.1f} | {ratio:.2f} |")


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--target", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--requests", type=int, default=8, help="how many at once (default: 8)")
    parser.add_argument("--num-draft-tokens", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    pair = (arguments.target, arguments.draft) if arguments.target and arguments.draft else bundled_pair()
    asyncio.run(measure(arguments, *pair))


if __name__ == "__main__":
    main()
