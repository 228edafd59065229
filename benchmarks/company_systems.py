"""What company.py measures: streams of every system are cut off when the first one ends."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.bench.load.prompts import Prompt
from orchestrator.bench.load.streams import Stream, run_together
from orchestrator.bench.results.counting import COUNTS
from orchestrator.bench.systems.llama_server import LlamaServer
from orchestrator.bench.systems.services import Checkout, Services
from orchestrator.bench.systems.system import Models, Setting
from orchestrator.stack.process import ServerProcess

ROOT = Path(__file__).resolve().parents[1]
# Tokens that the first stream may have had before the last one begins.
HEAD_START = 320


@dataclass(frozen=True)
class Answer:
    """The streams of one measurement, and what the system counted meanwhile."""

    streams: Sequence[Stream]
    counts: dict[str, int]


class System(Protocol):
    """Something that is measured. Its processes are started by `start` and stopped by the stack that it is given."""

    name: str
    settings: Sequence[Setting]

    async def start(self, running: AsyncExitStack) -> object:
        """Return when it can be asked."""

    async def ask(self, prompts: Sequence[str], setting: Setting, num_tokens: int) -> Answer:
        """Go on with all prompts, greedily, until the first one has had so many tokens since all have begun."""

    def processes(self, setting: Setting) -> dict[str, int]:
        """Return the ids, by what they do, of the processes that serve this setting; the others idle."""


class CheckoutServices(Services):
    """The services of a checkout. Where `record` is given, decodes are written down there."""

    def __init__(
        self, name: str, checkout: Checkout, models: Models, settings: Sequence[Setting], record: Path | None = None
    ) -> None:
        super().__init__(name, checkout, models, settings)
        self._record = record

    async def ask(self, prompts: Sequence[str], setting: Setting, num_tokens: int) -> Answer:
        """Go on with all prompts at once; see `System.ask`."""
        before = await self.idle_status(setting)
        asks = [self.asking(Prompt("company", text), setting, num_tokens + HEAD_START) for text in prompts]
        streams = await run_together(asks, num_tokens)
        after = await self.idle_status(setting)
        counts = {name: getattr(after.speculation, name) - getattr(before.speculation, name) for name in COUNTS}
        return Answer(streams, counts)

    def service(self, kind: str, flags: Sequence[str]) -> ServerProcess:
        """Return the process of a target or a draft, which writes down its decodes where that is asked for."""
        if self._record is None:
            return super().service(kind, flags)
        flags = ("--service", kind, "--record", f"{self._record}.{kind}", *flags)
        return self.process("company_service", flags, [Path(__file__).parent])


class CutLlamaServer(LlamaServer):
    """llama-server, one for each setting that is not to do without a draft."""

    def __init__(self, program: Path, models: Models, settings: Sequence[Setting], flags: Sequence[str]) -> None:
        super().__init__(program, models, [setting for setting in settings if setting.has_draft], flags)

    async def start(self, running: AsyncExitStack) -> dict[str, str]:
        """Return when all of them serve. Raises ConnectionError where one ends instead."""
        if problems := await super().start(running):
            raise ConnectionError(next(iter(problems.values())))
        return problems

    async def ask(self, prompts: Sequence[str], setting: Setting, num_tokens: int) -> Answer:
        """Go on with all prompts at once; see `System.ask`."""
        asks = [self.asking(Prompt("company", text), setting, num_tokens + HEAD_START) for text in prompts]
        return Answer(await run_together(asks, num_tokens), {})
