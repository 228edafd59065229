"""llama-server, one process for each setting: how it speculates cannot be set by request."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from orchestrator.bench.load.prompts import Prompt
from orchestrator.bench.load.streams import Ask, Stream
from orchestrator.bench.systems.http import post_events, request
from orchestrator.bench.systems.system import PLAIN, Models, Setting

_PAUSE_S = 0.1
NGRAM_KINDS = ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache")


def parse_setting(name: str) -> Setting:
    """Return the setting of this name: `plain`, a number, `NUMBER/P` with a least probability, or an n-gram type.

    Raises ValueError.
    """
    if name == PLAIN or name in NGRAM_KINDS:
        return Setting(name)
    number, has_probability, probability = name.partition("/")
    if number.isdecimal() and int(number):
        least = float(probability) if has_probability else None
        if least is None or 0 < least < 1:
            return Setting("fixed", int(number), least)
    kinds = ", ".join(NGRAM_KINDS)
    raise ValueError(f"a setting of llama-server is plain, a number, NUMBER/P with P from 0 to 1, or one of {kinds}")


class LlamaServer:
    """llama-server with the same models, slots, context and threads."""

    name = "llama-server"

    def __init__(self, program: Path, models: Models, settings: Sequence[Setting], flags: Sequence[str] = ()) -> None:
        self.settings = settings
        self._program = program
        self._models = models
        self._flags = flags
        self._ports: dict[str, int] = {}
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, running: AsyncExitStack) -> dict[str, str]:
        """Return when they serve; see `System.start`: there may not be memory for all of them.

        Raises ConnectionError where none does.
        """
        problems: dict[str, str] = {}
        for setting in self.settings:
            try:
                self._ports[_process_of(setting)] = await self._start_one(running, setting)
            except ConnectionError as error:
                problems[setting.name] = str(error)
        if not self._ports:
            raise ConnectionError(next(iter(problems.values())))
        self.settings = [setting for setting in self.settings if setting.name not in problems]
        return problems

    def asking(self, prompt: Prompt, setting: Setting, num_tokens: int) -> Ask:
        """Return what asks for one stream; see `System.asking`."""
        url = f"http://127.0.0.1:{self._ports[_process_of(setting)]}"
        common = {"temperature": 0, "stream": True, "seed": 1, "timings_per_token": False}
        if prompt.messages:
            messages = [{"role": role, "content": content} for role, content in prompt.messages]
            return _chatting(f"{url}/v1/chat/completions", {**common, "messages": messages, "max_tokens": num_tokens})
        question = {**common, "prompt": prompt.text, "n_predict": num_tokens, "return_tokens": True}
        return _completing(f"{url}/completion", question)

    def processes(self, setting: Setting) -> dict[str, int]:
        """Return the id of the process that serves this setting; see `System.processes`."""
        process = self._running.get(_process_of(setting))
        return {"llama-server": process.pid} if process is not None and process.returncode is None else {}

    async def _start_one(self, running: AsyncExitStack, setting: Setting) -> int:
        port = free_port()
        process = await asyncio.create_subprocess_exec(
            self._program, *server_flags(self._models, setting, port), *self._flags, stdout=sys.stderr.fileno()
        )
        running.push_async_callback(stop, process)
        self._running[_process_of(setting)] = process
        await _until_healthy(port, process)
        return port


def _process_of(setting: Setting) -> str:
    return PLAIN if setting.is_plain else setting.name


def server_flags(models: Models, setting: Setting, port: int) -> list[str]:
    """Return the flags of a llama-server that decodes like this."""
    threads = str(models.threads or len(os.sched_getaffinity(0)))
    flags = ["--model", str(models.target), "--parallel", str(models.slots), "--threads", threads]
    flags += ["--ctx-size", str(models.slots * models.context), "--host", "127.0.0.1", "--port", str(port)]
    flags += ["--offline", "--no-ui", "--log-verbosity", "1"]
    if models.gpu_layers is not None and models.gpu_layers >= 0:
        flags += ["--n-gpu-layers", str(models.gpu_layers)]
    if setting.kind == "fixed":
        flags += ["--model-draft", str(models.draft), "--spec-type", "draft-simple"]
        flags += ["--spec-draft-n-max", str(setting.num_draft_tokens), "--spec-draft-threads", threads]
        if setting.least_probability is not None:
            flags += ["--spec-draft-p-min", str(setting.least_probability)]
    elif setting.kind in NGRAM_KINDS:
        flags += ["--spec-type", setting.kind]
    return flags


def _completing(url: str, question: dict[str, object]) -> Ask:
    async def ask(stream: Stream) -> None:
        async for events in post_events(url, question):
            if num_arrived := sum(len(event.get("tokens", ())) for event in events if not event.get("stop")):
                stream.add(num_arrived)
            _note_timings(stream, events)

    return ask


def _note_timings(stream: Stream, events: Sequence[dict[str, Any]]) -> None:
    """Keep the server's own account, which comes with its last event."""
    for event in events:
        if "timings" in event:
            stream.summary["timings"] = event["timings"]


def _chatting(url: str, question: dict[str, object]) -> Ask:
    async def ask(stream: Stream) -> None:
        async for events in post_events(url, question):
            # An event a token, apart from the one that only names the role.
            deltas = [choice["delta"] for event in events for choice in event.get("choices", ())]
            if num_arrived := sum(any(delta.get(key) for key in ("content", "reasoning_content")) for delta in deltas):
                stream.add(num_arrived)
            _note_timings(stream, events)

    return ask


async def _until_healthy(port: int, process: asyncio.subprocess.Process) -> None:
    while process.returncode is None:
        with contextlib.suppress(ConnectionError):  # it does not listen, or not serve yet
            async for _ in request("GET", f"http://127.0.0.1:{port}/health"):
                pass
            return
        await asyncio.sleep(_PAUSE_S)
    raise ConnectionError(f"llama-server ended with code {process.returncode}")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def stop(process: asyncio.subprocess.Process) -> None:
    """End a process; return when it is gone."""
    if process.returncode is None:
        process.terminate()
        await process.wait()
