"""Our own services, of this installation or of another checkout."""

import asyncio
import os
import tomllib
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from orchestrator.bench.load.predictions import with_edits
from orchestrator.bench.load.prompts import Prompt
from orchestrator.bench.load.streams import Ask, Stream
from orchestrator.bench.systems.system import PLAIN, PREDICTION, Models, Setting
from orchestrator.stack.client import fetch_status, generate
from orchestrator.stack.process import ServerProcess
from orchestrator.stack.stack import Processes, while_kept
from outrider.v1 import generation_pb2
from services.frame.program.printable import one_line
from services.frame.rpc.channel import open_channel
from services.frame.rpc.health import watch_health

# A target that loads is waited for.
_ORCHESTRATOR_FLAGS = ("--log-level", "error", "--target-patience-s", "300")
_PAUSE_S = 0.01
# Keys that the environment asks for are for others: all of these are called on loopback, without any. An older checkout
# may not know of keys.
_KEYS = [f"OUTRIDER_{service}_API_KEY_FILE" for service in ("TARGET", "DRAFT", "ORCHESTRATOR")]
_MODES = {
    "auto": generation_pb2.SPECULATION_MODE_AUTO,
    "fixed": generation_pb2.SPECULATION_MODE_FIXED,
    # Texts have their own lengths, within what the orchestrator is set to.
    "ngram": generation_pb2.SPECULATION_MODE_AUTO,
    PREDICTION: generation_pb2.SPECULATION_MODE_AUTO,
}
_DRAFTERS = {
    "auto": generation_pb2.DRAFTER_UNSPECIFIED,
    "ngram": generation_pb2.DRAFTER_NGRAM,
    # As a caller has it who sets nothing but the prediction: lookup drafts beside it.
    PREDICTION: generation_pb2.DRAFTER_UNSPECIFIED,
}
# What a checkout has whose services can be started and asked.
_NEEDED = (
    *("pyproject.toml", "orchestrator/cli", "services/target", "services/draft"),
    *(f"protos/outrider/v1/{name}_pb2.py" for name in ("common", "draft", "generation", "model", "target")),
)


@dataclass(frozen=True)
class Checkout:
    """Where the code of the services is, here where `root` is absent, and further flags for them."""

    root: Path | None = None
    target_flags: Sequence[str] = ()
    draft_flags: Sequence[str] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where Python finds it, before all else."""
        return () if self.root is None else (self.root, self.root / "protos")

    @property
    def problem(self) -> str:
        """What keeps its services from being measured, as the end of a sentence that names it; empty where nothing."""
        if self.root is None:
            return ""
        if not self.root.is_dir():
            return "is none"
        if missing := [name for name in _NEEDED if not (self.root / name).exists()]:
            return f"has no {missing[0]}"
        try:
            project = tomllib.loads((self.root / "pyproject.toml").read_text()).get("project")
        except (OSError, ValueError) as error:
            return f"has a pyproject.toml that cannot be read: {one_line(str(error))}"
        is_named = isinstance(project, dict) and project.get("name") == "outrider" and project.get("version")
        return "" if is_named else "has a pyproject.toml without a version of outrider"


class Services:
    """Target, draft and orchestrator of a checkout; for plain decoding without a draft, another two processes."""

    def __init__(
        self,
        name: str,
        checkout: Checkout,
        models: Models,
        settings: Sequence[Setting],
        *,
        exact: str = "off",
        variables: dict[str, str] | None = None,
    ) -> None:
        """`variables` are set in the environment of the processes."""
        self.name = name
        self.settings = settings
        self.checkout = checkout
        flags = {"target_flags": list(checkout.target_flags), "draft_flags": list(checkout.draft_flags)}
        self.about: dict[str, Any] = {"root": str(checkout.root or ""), "exact": exact, **flags}
        self._models = models
        self._exact = exact
        self._variables = dict(variables or {})
        # With a draft and without one.
        self._addresses: dict[bool, str] = {}
        self._processes: dict[bool, dict[str, ServerProcess]] = {True: {}, False: {}}
        # What is expected as answers to prompts that have no prediction of their own.
        self._expected: dict[Prompt, str] = {}

    def again(self, variables: dict[str, str], settings: Sequence[Setting]) -> "Services":
        """Return the same, not started, with these variables in the environment of its processes."""
        again = Services(self.name, self.checkout, self._models, settings, exact=self._exact, variables=variables)
        again._expected = self._expected
        return again

    async def start(self, running: AsyncExitStack) -> dict[str, str]:
        """Return when the orchestrators serve; see `System.start`. Raises RefusedError and CrashedError."""
        for has_draft in sorted({setting.has_draft for setting in self.settings}, reverse=True):
            self._addresses[has_draft] = await self._start_stack(running, has_draft)
        status = await self.status(self.settings[0])
        self.about["version"] = status.version
        most = status.target.model.max_draft_tokens
        too_many = [each for each in self.settings if each.kind == "fixed" and each.num_draft_tokens > most]
        self.settings = [each for each in self.settings if each not in too_many]
        return {each.name: f"the target takes 1 to {most} draft tokens" for each in too_many}

    async def rehearse(self, prompts: Sequence[Prompt], num_tokens: int) -> None:
        """Find out what to expect as answers of so many tokens, where that is asked for and no prompt says it."""
        if not any(setting.kind == PREDICTION for setting in self.settings):
            return
        for prompt in prompts:
            if not (prompt.prediction or prompt in self._expected):
                messages = generate(self._addresses[True], _request(prompt, Setting(PLAIN), num_tokens))
                text = "".join([message.chunk.text async for message in messages])
                self._expected[prompt] = with_edits(text)

    def asking(self, prompt: Prompt, setting: Setting, num_tokens: int) -> Ask:
        """Return what asks for one stream; see `System.asking`."""
        address, request = self._addresses[setting.has_draft], _request(prompt, setting, num_tokens)
        if setting.kind == PREDICTION:
            request.prediction.text = prompt.prediction or self._expected.get(prompt, "")

        async def ask(stream: Stream) -> None:
            async for message in generate(address, request):
                if num_arrived := len(message.chunk.tokens):
                    stream.add(num_arrived)
                if message.HasField("summary"):
                    stream.summary = MessageToDict(
                        message.summary, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
                    )

        return ask

    def processes(self, setting: Setting) -> dict[str, int]:
        """Return the ids of the processes that serve this setting; see `System.processes`."""
        running = self._processes[setting.has_draft]
        return {name: process.pid for name, process in running.items() if process.pid is not None}

    async def status(self, setting: Setting) -> generation_pb2.GetStatusResponse:
        """Return what the orchestrator that serves this setting says of itself."""
        return await fetch_status(self._addresses[setting.has_draft])

    async def idle_status(self, setting: Setting) -> generation_pb2.GetStatusResponse:
        """Return the same once no request is under way, so that all of them have been counted."""
        while (status := await self.status(setting)).num_active:
            await asyncio.sleep(_PAUSE_S)
        return status

    def process(self, module: str, flags: Sequence[str], paths: Sequence[Path] = ()) -> ServerProcess:
        """Return a process, not started, with what the checkout asks for in its environment, and `paths` before that.

        The working directory would come before everything else, but for the flag.
        """
        variables = {name: "" for name in _KEYS if name in os.environ} | self._variables
        if found := (*paths, *self.checkout.paths):
            variables |= {"PYTHONPATH": os.pathsep.join(map(str, found)), "PYTHONSAFEPATH": "1"}
        return ServerProcess(module, flags, variables=variables)

    def service(self, kind: str, flags: Sequence[str]) -> ServerProcess:
        """Return the process of a target or a draft, not started."""
        return self.process(f"services.{kind}", flags)

    async def _start_stack(self, running: AsyncExitStack, has_draft: bool) -> str:
        checkout, started = self.checkout, self._processes[has_draft]
        processes = Processes()
        running.push_async_callback(processes.stop)

        async def start(name: str, process: ServerProcess) -> str:
            started[name] = processes.add(process)
            return await process.start()

        log = ("--log-level", "error")
        flags = ("--model", str(self._models.target), "--exact", self._exact, *self._models.flags, *log)
        peers = ["--target", await start("target", self.service("target", (*flags, *checkout.target_flags)))]
        if has_draft and self._models.draft is not None:
            flags = ("--model", str(self._models.draft), *self._models.flags, *log)
            peers += ["--draft", await start("draft", self.service("draft", (*flags, *checkout.draft_flags)))]
        address = await start("orchestrator", self.process("orchestrator", (*_ORCHESTRATOR_FLAGS, *peers)))
        await while_kept(_until_serving((*peers[1::2], address)), processes.keep())
        return address


async def _until_serving(addresses: Sequence[str]) -> None:
    """Return once all of them serve, by their own account: another checkout's log may be silent about it."""
    for address in addresses:
        async with open_channel(address) as channel:
            while not await _is_serving(channel):
                await asyncio.sleep(_PAUSE_S)


async def _is_serving(channel: grpc.aio.Channel) -> bool:
    """Return whether a server serves, once it does or has ended."""
    with suppress(grpc.aio.AioRpcError):  # it crashed, and is started again or given up
        async for is_serving in watch_health(channel, ""):
            if is_serving:
                return True
    return False


def _request(prompt: Prompt, setting: Setting, num_tokens: int) -> generation_pb2.GenerateRequest:
    speculation = generation_pb2.Speculation(
        mode=_MODES.get(setting.kind, generation_pb2.SPECULATION_MODE_OFF),
        num_draft_tokens=setting.num_draft_tokens,
        drafter=_DRAFTERS.get(setting.kind, generation_pb2.DRAFTER_REMOTE),
    )
    request = generation_pb2.GenerateRequest(max_tokens=num_tokens, seed=1, speculation=speculation)
    if prompt.messages:
        for role, content in prompt.messages:
            request.chat.messages.add(role=role, content=content)
    else:
        request.text = prompt.text
    return request
