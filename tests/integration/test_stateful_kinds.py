"""Each kind of model that keeps a state goes through all that may happen to sessions, and its texts stay the same.

There are more kinds than writers of them here. `RANDOM_MODELS` may name a folder of further models, as
`benchmarks/families.py --write-to` fills it with those that llama.cpp makes up.
"""

import asyncio
import os
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from outrider.v1 import generation_pb2
from tests import foreign_models
from tests.integration import sparse_models, unusual_models
from tests.integration.conftest import Pair
from tests.integration.services import AUTO, OFF, Client, Generated, draft_server, fixed, target_server
from tests.integration.stateful import (
    GREEDY,
    SAMPLED,
    System,
    Writer,
    altered,
    ask,
    differences,
    port_of,
    prompt,
    running,
)
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.integration


def copier(source: Path) -> Writer:
    def write(path: Path) -> Path:
        shutil.copyfile(source, path)
        return path

    return write


# LFM2 and Mamba have tests of their own.
KINDS: dict[str, Writer] = {
    "LFM2 with a window": foreign_models.windowed_hybrid,
    "Mamba 2": unusual_models.mamba2,
    "Granite 4": unusual_models.granite_hybrid,
    "Falcon H1": unusual_models.falcon_h1,
    "Qwen 3.5": unusual_models.qwen35,
    "Qwen 4": sparse_models.qwen4exp,
    "DeepSeek 4": sparse_models.deepseek4,
}
if folder := os.environ.get("RANDOM_MODELS"):
    KINDS |= {path.stem: copier(path) for path in sorted(Path(folder).glob("*.gguf"))}
# Twice as many as there are slots, of every other one the beginning of the last.
PROMPTS = [
    prompt(length, seed=0 if index % 2 else length) for index, length in enumerate((3, 20, 31, 50, 66, 70, 95, 120))
]


async def ask_all(client: Client, speculation: generation_pb2.Speculation, **fields: Any) -> list[Generated]:
    """Ask all at once, every other one at a temperature."""
    ways = [SAMPLED if index % 2 else GREEDY for index in range(len(PROMPTS))]
    asked = (ask(client, tokens, speculation, **way, **fields) for tokens, way in zip(PROMPTS, ways, strict=True))
    return await asyncio.gather(*asked)


async def killed(system: System) -> list[Generated]:
    """Let the draft die in the middle."""
    system.draft_gate.hold_after(12)
    asking = asyncio.create_task(ask_all(system.client, fixed(4)))
    await system.draft_gate.reached()
    stopping = asyncio.create_task(system.draft.stop(0))
    await system.client.until_draft(is_available=False)
    system.draft_gate.open()
    await stopping
    return await asking


async def swapped(system: System, model: Path, stack: AsyncExitStack) -> list[Generated]:
    """Let another draft take its place in the middle."""
    system.target_gate.hold_after(4)
    asking = asyncio.create_task(ask_all(system.client, fixed(4)))
    await system.target_gate.reached()
    await stack.enter_async_context(draft_server(model, port=port_of(system.draft)))
    await system.client.until_draft(is_available=True)
    system.target_gate.open()
    return await asking


async def resynced(system: System, model: Path, stack: AsyncExitStack) -> list[Generated]:
    """Let the target be restarted in the middle, so that what it held is sent again."""
    system.target_gate.hold_after(6)
    asking = asyncio.create_task(ask_all(system.client, fixed(4)))
    await system.target_gate.reached()
    stopping = asyncio.create_task(system.target.stop(0))
    async with asyncio.timeout(PATIENCE_S):
        while (await system.client.status()).target.is_available:
            await asyncio.sleep(0.005)
    system.target_gate.open()
    await stopping
    await stack.enter_async_context(target_server(model, exact="on", port=port_of(system.target)))
    return await asking


@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_happens_the_texts_are_the_same(kind: str, tmp_path: Path) -> None:
    write = KINDS[kind]
    pair = Pair(write(tmp_path / "target.gguf"), altered(write)(tmp_path / "draft.gguf"))
    async with running(pair) as system, AsyncExitStack() as stack:
        ways = [SAMPLED if index % 2 else GREEDY for index in range(len(PROMPTS))]
        expected = [await ask(system.client, tokens, OFF, **way) for tokens, way in zip(PROMPTS, ways, strict=True)]
        assert all(answer.summary.exact for answer in expected)
        for speculation in (OFF, fixed(1), fixed(4), fixed(7), AUTO):
            assert list(differences(await ask_all(system.client, speculation), expected)) == []
        assert list(differences(await killed(system), expected)) == []
        answers = await swapped(system, pair.target, stack)
        assert list(differences(answers, expected)) == []
        assert sum(answer.counts.num_accepted_tokens for answer in answers) > 0
        answers = await resynced(system, pair.target, stack)
        assert list(differences(answers, expected)) == []
        assert any(answer.counts.num_resyncs for answer in answers)
