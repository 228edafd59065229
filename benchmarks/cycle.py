"""What a cycle costs beside the two models' own time.

`python benchmarks/cycle.py [--target PATH --draft PATH] [--num-draft-tokens 4]` prints a JSON line for each speculation
setting: tokens per second, and medians over generations of the time per cycle, in milliseconds.
"""

import argparse
import asyncio
import json
import statistics
from pathlib import Path

from orchestrator.stack.bundled import bundled_pair
from orchestrator.stack.client import generate
from orchestrator.stack.stack import Stack, StackOptions
from outrider.v1 import common_pb2, generation_pb2

PROMPT = "class Stack:\n    def __init__(self):\n"


async def measure(arguments: argparse.Namespace, target: Path, draft: Path) -> None:
    """Start the stack and generate with and without a draft."""
    options = StackOptions(
        target,
        draft,
        log_level="error",
        target_flags=("--threads", str(arguments.threads), "--exact", arguments.exact),
        draft_flags=("--threads", str(arguments.draft_threads)),
    )
    async with Stack(options) as stack:
        await stack.wait_ready()
        for num_draft_tokens in (0, arguments.num_draft_tokens):
            mode = generation_pb2.SPECULATION_MODE_FIXED if num_draft_tokens else generation_pb2.SPECULATION_MODE_OFF
            speculation = generation_pb2.Speculation(mode=mode, num_draft_tokens=num_draft_tokens)
            summaries = []
            for seed in range(arguments.generations + 1):
                request = generation_pb2.GenerateRequest(
                    text=PROMPT,
                    max_tokens=arguments.max_tokens,
                    seed=seed,
                    sampling=common_pb2.Sampling(temperature=0.8),
                    speculation=speculation,
                )
                async for message in generate(stack.address, request):
                    if message.HasField("summary"):
                        summaries.append(message.summary)
            print(json.dumps({"num_draft_tokens": num_draft_tokens} | report(summaries[1:])), flush=True)


def report(summaries: list[generation_pb2.GenerateSummary]) -> dict[str, float]:
    """Return medians over generations, the first of which is left out as a warm-up."""

    def median(milliseconds: list[float]) -> float:
        per_cycle = [
            value / summary.speculation.num_cycles for value, summary in zip(milliseconds, summaries, strict=True)
        ]
        return round(statistics.median(per_cycle), 3)

    times = [summary.timings for summary in summaries]
    computed = [time.target_computed_ms + time.draft_computed_ms for time in times]
    num_tokens = sum(summary.usage.num_generated_tokens for summary in summaries)
    return {
        "tokens_per_s": round(num_tokens / sum(time.total_ms for time in times) * 1e3, 1),
        "cycle_ms": median([time.total_ms for time in times]),
        "models_ms": median(computed),
        "beside_the_models_ms": median([time.total_ms - own for time, own in zip(times, computed, strict=True)]),
        "orchestrator_ms": median([time.total_ms - time.target_ms - time.draft_ms for time in times]),
    }


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--exact", choices=("on", "off"), default="off")
    parser.add_argument("--threads", type=int, default=0, help="of the target")
    parser.add_argument("--draft-threads", type=int, default=0)
    parser.add_argument("--num-draft-tokens", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--generations", type=int, default=8)
    arguments = parser.parse_args()
    pair = (arguments.target, arguments.draft) if arguments.target and arguments.draft else bundled_pair()
    asyncio.run(measure(arguments, *pair))


if __name__ == "__main__":
    main()
