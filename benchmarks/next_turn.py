"""How much of an answer the next turn of a chat evaluates again: it is tokenized otherwise than it was generated.

`python benchmarks/next_turn.py MODEL` takes a model with a chat template, lets it answer at several temperatures and
prints a JSON line for each: answers, their tokens, and how many of these are not at the beginning of the next prompt.
"""

import argparse
import asyncio
import json
from collections.abc import Collection, Sequence
from itertools import takewhile
from pathlib import Path

from orchestrator.stack.client import fetch_status, generate
from orchestrator.stack.stack import Stack, StackOptions
from outrider.v1 import common_pb2, generation_pb2, target_pb2, target_pb2_grpc
from services.frame.rpc.channel import open_channel

QUESTIONS = [
    "Tell me about the history of Vienna.",
    "Write a short story about a lighthouse keeper.",
    "Explain how photosynthesis works.",
    "Write a Python function that parses a CSV file without the csv module.",
    "Plan a trip of three days to Iceland.",
    "What is the difference between TCP and UDP?",
    "Give me a JSON object that describes a person.",
    "List ten unusual words with their meanings.",
]


def said(role: str, content: str) -> target_pb2.ChatMessage:
    """Return a message."""
    return target_pb2.ChatMessage(role=role, content=content)


async def num_lost(
    address: str,
    target: target_pb2_grpc.TargetServiceStub,
    ends: Collection[int],
    question: str,
    temperature: float,
    seed: int,
    most: int,
) -> tuple[int, int]:
    """Return how many tokens an answer has, without its end, and how many of them the next prompt does not have."""
    chat = [said("user", question)]
    request = generation_pb2.GenerateRequest(
        chat=generation_pb2.ChatPrompt(messages=chat),
        max_tokens=most,
        sampling=common_pb2.Sampling(temperature=temperature),
        seed=seed,
    )
    chunks = [message.chunk async for message in generate(address, request) if message.HasField("chunk")]
    answer = said("assistant", "".join(chunk.content for chunk in chunks))
    answer.reasoning = "".join(chunk.reasoning for chunk in chunks)
    tokens = [token.token for chunk in chunks for token in chunk.tokens if token.token not in ends]
    prompt, following = [
        await target.ApplyChatTemplate(
            target_pb2.ApplyChatTemplateRequest(messages=messages, add_generation_prompt=True)
        )
        for messages in (chat, [*chat, answer, said("user", "Go on.")])
    ]
    pairs = zip([*prompt.tokens, *tokens], following.tokens, strict=False)
    num_common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return len(tokens), max(0, len(prompt.tokens) + len(tokens) - num_common)


async def measure(model: Path, temperatures: Sequence[float], num_seeds: int, most: int) -> None:
    """Print a line for each temperature."""
    options = StackOptions(model, None, target_flags=("--slots", "2", "--context", "2048"))
    async with Stack(options) as stack:
        await stack.wait_ready()
        status = await fetch_status(stack.address)
        ends = frozenset(status.target.model.end_of_generation_tokens)
        async with open_channel(status.target.address) as channel:
            target = target_pb2_grpc.TargetServiceStub(channel)
            for temperature in temperatures:
                counts = [
                    await num_lost(stack.address, target, ends, question, temperature, seed, most)
                    for question in QUESTIONS
                    for seed in range(num_seeds if temperature else 1)
                ]
                line = {
                    "model": status.target.model.name,
                    "temperature": temperature,
                    "answers": len(counts),
                    "tokens": sum(num_tokens for num_tokens, _ in counts),
                    "answers_with_a_loss": sum(lost > 0 for _, lost in counts),
                    "tokens_lost": sum(lost for _, lost in counts),
                }
                print(json.dumps(line), flush=True)


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.7, 1.0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=160)
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.model, arguments.temperatures, arguments.seeds, arguments.tokens))


if __name__ == "__main__":
    main()
