"""Pairs of tiny random models of which at least one keeps a recurrent state, and what is asked of them."""

import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader

from outrider.v1 import generation_pb2
from services.frame.server import FrameServer
from tests.foreign_models import VOCABULARY_SIZE, hybrid, llama, recurrent
from tests.integration.conftest import Pair
from tests.integration.services import (
    AUTO,
    OFF,
    Client,
    Gate,
    Generated,
    client_of,
    draft_server,
    fixed,
    orchestrator_server,
    target_server,
)
from tests.ports import free_port

Writer = Callable[[Path], Path]
# Of a tensor's values: about half of what so altered a draft says is what the model says from which it was made.
_NOISE = 0.05
# Ids below are control tokens or odd ones.
_FIRST_TOKEN = 10
GREEDY: dict[str, Any] = {"temperature": 0.0}
SAMPLED: dict[str, Any] = {"temperature": 0.8, "seed": 3}
WAYS = {"greedy": GREEDY, "sampled": SAMPLED}
SPECULATIONS = {"1 token": fixed(1), "4 tokens": fixed(4), "7 tokens": fixed(7), "16 tokens": fixed(16), "auto": AUTO}


def altered(write: Writer) -> Writer:
    """Write a model that often says what the one of `write` says."""

    def write_altered(path: Path) -> Path:
        noise = np.random.default_rng(1)
        for tensor in GGUFReader(write(path), "r+").tensors:
            if len(tensor.shape) > 1:
                tensor.data[:] += _NOISE * tensor.data.std() * noise.standard_normal(tensor.data.shape, np.float32)
        return path

    return write_altered


PAIRS: dict[str, tuple[Writer, Writer]] = {
    "hybrid, drafts of one like it": (hybrid, altered(hybrid)),
    "hybrid, drafts of a plain one": (hybrid, llama),
    "recurrent, drafts of one like it": (recurrent, altered(recurrent)),
    "recurrent, drafts of a hybrid": (recurrent, hybrid),
    "plain, drafts of a recurrent one": (llama, recurrent),
}


def write_pair(name: str, folder: Path) -> Pair:
    """Write the files of one of `PAIRS`."""
    target, draft = PAIRS[name]
    return Pair(target(folder / "target.gguf"), draft(folder / "draft.gguf"))


def prompt(length: int, seed: int = 0) -> list[int]:
    """Return a prompt of random tokens."""
    rng = random.Random(seed)
    return [rng.randrange(_FIRST_TOKEN, VOCABULARY_SIZE) for _ in range(length)]


async def ask(
    client: Client, tokens: Sequence[int], speculation: generation_pb2.Speculation = OFF, **fields: Any
) -> Generated:
    """Return an answer to a prompt of tokens, with log-probabilities, which show more than the tokens do."""
    asked: dict[str, Any] = {"max_tokens": 16, "num_log_probabilities": 2, **fields}
    return await client.generate(tokens=generation_pb2.TokenPrompt(tokens=tokens), speculation=speculation, **asked)


def differences(ones: Sequence[Generated], others: Sequence[Generated]) -> Iterator[str]:
    """Yield what differs between answers: tokens and their log-probabilities, to the bit."""
    for index, (one, other) in enumerate(zip(ones, others, strict=True)):
        for place, (left, right) in enumerate(zip(one.tokens, other.tokens, strict=False)):
            if (left.token, left.log_probabilities) != (right.token, right.log_probabilities):
                yield f"answer {index}, token {place}: {left.token} and {right.token}"
                break
        else:
            if len(one.tokens) != len(other.tokens):
                yield f"answer {index}: {len(one.tokens)} and {len(other.tokens)} tokens"


@dataclass
class System:
    """Services at ports that others can take, the gates of their decodes, and a client."""

    target: FrameServer
    draft: FrameServer
    target_gate: Gate
    draft_gate: Gate
    client: Client


@asynccontextmanager
async def running(pair: Pair, exact: str = "on", **settings: Any) -> AsyncIterator[System]:
    """A whole system, exact as it is asked for."""
    gates = Gate(), Gate()
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(
            target_server(pair.target, gates[0], exact=exact, port=free_port(), **settings)
        )
        draft = await stack.enter_async_context(draft_server(pair.draft, gates[1], port=free_port(), **settings))
        server = await stack.enter_async_context(orchestrator_server(target.address, draft.address))
        client = await stack.enter_async_context(client_of(server))
        await client.until_draft(is_available=True)
        yield System(target, draft, *gates, client)


def port_of(server: FrameServer) -> int:
    """Return the port that another one can take when this one has stopped."""
    return int(server.address.rsplit(":", 1)[1])
