"""How often the text is the same with the draft on, off, and killed in the middle.

`python benchmarks/same_text.py --target PATH --draft PATH` starts the stack, generates each prompt three times for each
temperature with the same seed, and prints how many prompts differ from plain decoding.
"""

import argparse
import asyncio
import os
import random
import re
import signal
import sysconfig
from collections.abc import Callable
from pathlib import Path

from orchestrator.bundled import bundled_pair
from orchestrator.client import generate
from orchestrator.stack import Stack, StackOptions
from outrider.v1 import common_pb2, generation_pb2, generation_pb2_grpc
from services.frame.channel import open_channel

_HEADER = re.compile(r"^ {0,4}def \w+\(.*\):\n", re.MULTILINE)


def prompts(count: int) -> list[str]:
    """Return function headers of the standard library with up to ten lines before them, the same ones every time."""
    rng = random.Random(0)
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    found: list[str] = []
    while len(found) < count:
        text = rng.choice(paths).read_text(errors="replace")
        headers = list(_HEADER.finditer(text))
        if headers:
            end = rng.choice(headers).end()
            found.append("\n".join(text[:end].split("\n")[-11:]))
    return found


async def tokens_of(
    address: str, request: generation_pb2.GenerateRequest, on_token: Callable[[int], None] = lambda count: None
) -> list[int]:
    """Generate, and call `on_token` with the number of tokens so far after each chunk."""
    tokens: list[int] = []
    async for message in generate(address, request):
        tokens.extend(token.token for token in message.chunk.tokens)
        on_token(len(tokens))
    return tokens


async def wait_for_draft(address: str) -> None:
    """Return when the orchestrator uses the draft."""
    async with open_channel(address) as channel:
        stub = generation_pb2_grpc.GenerationServiceStub(channel)
        while not (await stub.GetStatus(generation_pb2.GetStatusRequest())).draft.is_available:
            # An open breaker closes by the next request that tries.
            await tokens_of(address, generation_pb2.GenerateRequest(text="x", max_tokens=8))


async def generate_and_kill(
    stack: Stack, request: generation_pb2.GenerateRequest, kill_at: int
) -> tuple[list[int], bool]:
    """Generate, kill the draft after `kill_at` tokens, start it again; return the tokens and whether it was killed."""
    pid = stack.pid("services.draft")
    assert pid is not None
    is_killed = False

    def kill(count: int) -> None:
        nonlocal is_killed
        if count > kill_at and not is_killed:
            os.kill(pid, signal.SIGKILL)
            is_killed = True

    tokens = await tokens_of(stack.address, request, kill)
    if is_killed:
        await stack.restart("services.draft")
        await wait_for_draft(stack.address)
    return tokens, is_killed


async def measure(target: Path, draft: Path, num_prompts: int, max_tokens: int, exact: str) -> None:
    """Print a line for each temperature and condition."""
    rng = random.Random(1)
    options = StackOptions(
        target,
        draft,
        log_level="error",
        target_flags=("--exact", exact),
        orchestrator_flags=("--draft-retry-s", "0.05"),
    )
    async with Stack(options) as stack:
        await stack.wait_ready()
        await wait_for_draft(stack.address)
        for temperature in (0.0, 0.8):
            num_different = {"on": 0, "killed": 0}
            num_kills = 0
            for index, prompt in enumerate(prompts(num_prompts)):
                request = generation_pb2.GenerateRequest(
                    text=prompt,
                    max_tokens=max_tokens,
                    seed=index,
                    sampling=common_pb2.Sampling(temperature=temperature),
                    speculation=generation_pb2.Speculation(mode=generation_pb2.SPECULATION_MODE_OFF),
                )
                plain = await tokens_of(stack.address, request)
                request.speculation.mode = generation_pb2.SPECULATION_MODE_AUTO
                num_different["on"] += plain != await tokens_of(stack.address, request)
                tokens, is_killed = await generate_and_kill(stack, request, rng.randrange(len(plain)))
                num_different["killed"] += plain != tokens
                num_kills += is_killed
            for condition, count in num_different.items():
                print(f"temperature {temperature:g}, draft {condition}: {count} of {num_prompts} prompts differ")
            print(f"temperature {temperature:g}: the draft was killed in {num_kills} generations", flush=True)


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--exact", choices=("on", "off"), default="off")
    arguments = parser.parse_args()
    pair = (arguments.target, arguments.draft) if arguments.target and arguments.draft else bundled_pair()
    asyncio.run(measure(*pair, arguments.prompts, arguments.max_tokens, arguments.exact))


if __name__ == "__main__":
    main()
