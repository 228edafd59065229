"""The floor that company.py measures the project against: a bare loop over the same libraries."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

from company_systems import ROOT, Answer

from orchestrator.bench.load.streams import Chunk, Stream
from orchestrator.bench.systems.llama_server import stop
from orchestrator.bench.systems.system import Models, Setting


class Floor:
    """The bare loop, in a process of its own."""

    def __init__(self, models: Models, settings: Sequence[Setting], flash_attention: str) -> None:
        self.name = "floor" if flash_attention == "off" else "floor, flash attention"
        self.settings = [setting for setting in settings if setting.has_draft]
        self._models = models
        self._flash_attention = flash_attention
        self._process: asyncio.subprocess.Process

    async def start(self, running: AsyncExitStack) -> None:
        """Start it; the first question waits for the models."""
        models = self._models
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ROOT / "benchmarks" / "company_floor.py"), *models.flags),
            *("--target", str(models.target), "--draft", str(models.draft)),
            *("--flash-attention", self._flash_attention),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "protos")))},
            # Answers have one line.
            limit=1 << 26,
        )
        running.push_async_callback(stop, self._process)

    async def ask(self, prompts: Sequence[str], setting: Setting, num_tokens: int) -> Answer:
        """Go on with all prompts at once; see `System.ask`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        question = {"prompts": prompts, "num_draft_tokens": setting.num_draft_tokens, "num_tokens": num_tokens}
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        if not (line := await self._process.stdout.readline()):
            raise RuntimeError("the bare loop has ended")
        answers = json.loads(line)
        return Answer(
            [Stream([Chunk(*chunk) for chunk in answer["chunks"]], answer["has_ended"]) for answer in answers], {}
        )

    def processes(self, setting: Setting) -> dict[str, int]:
        """Return the id of its process."""
        return {"floor": self._process.pid}
