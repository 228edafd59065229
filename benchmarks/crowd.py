"""What a crowd costs: a short request beside long prompts, more generations than slots, and one session far away.

`python benchmarks/crowd.py [--target PATH --draft PATH] [--turns N]` prints one JSON object a line:

- `short beside prompts`: milliseconds to the first token of a short request, alone and while six prompts of
  thousands of tokens are evaluated;
- `more than slots`: tokens per second of 24 generations on 8 slots over those of 8, in turns;
- `far session`: tokens per second of four sessions while a fifth one drafts 150 ms away, over those without it and over
  those beside a fifth one that is near.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from company_prompts import PROMPTS
from rig import until_serving

from orchestrator.stack.bundled import bundled_pair
from orchestrator.stack.client import generate
from orchestrator.stack.process import ServerProcess
from outrider.v1 import generation_pb2

_NUM_DRAFT_TOKENS = 3
_SLOTS, _CONTEXT = 8, 4096
_FAR_S = 0.15
_LONG = "".join(PROMPTS)


class Crowd:
    """A target and a draft with 8 slots, and two orchestrators: to one of them the draft is far away."""

    def __init__(self, target: Path, draft: Path) -> None:
        self._models = {"target": target, "draft": draft}
        self.near = self.far = ""

    async def start(self, running: AsyncExitStack) -> None:
        """Return when both orchestrators serve."""
        flags = ("--slots", str(_SLOTS), "--context", str(_CONTEXT), "--log-level", "error")
        services = {
            kind: await _start(running, f"services.{kind}", ("--model", str(model), *flags))
            for kind, model in self._models.items()
        }
        delayed = await running.enter_async_context(delaying(services["draft"], _FAR_S / 2))
        peers = ("--log-level", "error", "--target", services["target"], "--target-patience-s", "300", "--draft")
        self.near, self.far = [
            await _start(running, "orchestrator", (*peers, draft)) for draft in (services["draft"], delayed)
        ]
        for address in (*services.values(), self.near, self.far):
            await until_serving(address)


async def _start(running: AsyncExitStack, module: str, flags: Sequence[str]) -> str:
    process = ServerProcess(module, flags)
    address = await process.start()
    running.push_async_callback(process.stop)
    return address


@asynccontextmanager
async def delaying(address: str, delay_s: float) -> AsyncIterator[str]:
    """Give an address that leads to another one, with so many seconds of delay in each direction."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(1 << 16):
            loop.call_later(delay_s, writer.write, data)
        loop.call_later(delay_s, writer.close)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = address.rpartition(":")
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(carry(reader, back), carry(there, writer))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def tokens_of(address: str, text: str, num_tokens: int, arrivals: list[float] | None = None) -> int:
    """Generate, note when each chunk arrived, and return how many tokens came."""
    fixed = generation_pb2.SPECULATION_MODE_FIXED
    speculation = generation_pb2.Speculation(mode=fixed, num_draft_tokens=_NUM_DRAFT_TOKENS)
    request = generation_pb2.GenerateRequest(text=text, max_tokens=num_tokens, seed=1, speculation=speculation)
    num_arrived = 0
    async for message in generate(address, request):
        if message.chunk.tokens:
            num_arrived += len(message.chunk.tokens)
            if arrivals is not None:
                arrivals.append(time.perf_counter())
    return num_arrived


async def short_beside_prompts(crowd: Crowd, turn: int) -> dict[str, float]:
    """Return the milliseconds to the first token, alone and beside six long prompts."""

    async def first_token_ms(text: str) -> float:
        began_s, arrivals = time.perf_counter(), list[float]()
        await tokens_of(crowd.near, text, 8, arrivals)
        return (arrivals[0] - began_s) * 1e3

    alone_ms = await first_token_ms(f"# {turn} alone\nimport ")
    # Prompts that share no beginning, or one would be copied from another's slot.
    prompts = [f"# {turn} {number}\n{_LONG * 3}"[:9000] for number in range(6)]
    prefills = [asyncio.ensure_future(tokens_of(crowd.near, prompt, 8)) for prompt in prompts]
    await asyncio.sleep(0.3)
    beside_ms = await first_token_ms(f"# {turn} beside\nimport ")
    num_going_on = sum(not prefill.done() for prefill in prefills)
    await asyncio.gather(*prefills)
    return {"alone_ms": alone_ms, "beside_ms": beside_ms, "prompts_still_going_on": num_going_on}


async def more_than_slots(crowd: Crowd, turn: int) -> dict[str, float]:
    """Return the tokens per second of 8 generations, of 24, and their ratio."""

    async def rate(num_generations: int) -> float:
        began_s = time.perf_counter()
        texts = [f"{PROMPTS[number % len(PROMPTS)]}# {turn} {number}\n" for number in range(num_generations)]
        numbers = await asyncio.gather(*(tokens_of(crowd.near, text, 128) for text in texts))
        return sum(numbers) / (time.perf_counter() - began_s)

    few, many = await rate(_SLOTS), await rate(3 * _SLOTS)
    return {"of_8": few, "of_24": many, "ratio": many / few}


async def far_session(crowd: Crowd, turn: int) -> dict[str, float]:
    """Return the tokens per second of four sessions: by themselves, beside a fifth one, and beside one far away.

    The last over the others are ratios. What the fifth one got is told too: one whose drafts are late decodes plainly.
    """

    async def rate(fifth: str = "") -> tuple[float, float]:
        arrivals: list[float] = []
        going_on = asyncio.ensure_future(tokens_of(fifth, PROMPTS[5], 2000, arrivals)) if fifth else None
        await asyncio.sleep(1.0)
        began_s, num_before = time.perf_counter(), len(arrivals)
        numbers = await asyncio.gather(*(tokens_of(crowd.near, text, 256) for text in PROMPTS[:4]))
        took_s, num_chunks = time.perf_counter() - began_s, len(arrivals) - num_before
        if going_on is not None:
            going_on.cancel()
            await asyncio.gather(going_on, return_exceptions=True)
        return sum(numbers) / took_s, num_chunks / took_s

    without, _ = await rate()
    beside_near, _ = await rate(crowd.near)
    beside_far, far_chunks = await rate(crowd.far)
    return {
        "without": without,
        "beside_near": beside_near,
        "beside_far": beside_far,
        "chunks_per_s_of_far": far_chunks,
        "to_without": beside_far / without,
        "to_near": beside_far / beside_near,
    }


CASES = {
    "short beside prompts": short_beside_prompts,
    "more than slots": more_than_slots,
    "far session": far_session,
}


async def measure(target: Path, draft: Path, num_turns: int, names: Sequence[str]) -> None:
    """Print a line for each case: medians of all figures over the turns, one turn to warm up left out."""
    async with AsyncExitStack() as running:
        crowd = Crowd(target, draft)
        await crowd.start(running)
        for name in names:
            turns = [await CASES[name](crowd, turn) for turn in range(num_turns + 1)][1:]
            medians = {key: round(statistics.median(turn[key] for turn in turns), 3) for key in turns[0]}
            print(json.dumps({"case": name, "turns": num_turns, **medians}), flush=True)


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--target", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    target, draft = bundled_pair()
    asyncio.run(measure(arguments.target or target, arguments.draft or draft, arguments.turns, arguments.cases))


if __name__ == "__main__":
    main()
