"""How long the way of a drafted cycle is: the files it passes, the types that carry its tokens, the names on the way.

`python -m tools.cycle_path [FILE ...]` runs the three services in one process with the bundled pair, and prints

- the files of ours whose functions run from where `run_cycles` asks for a draft to where it yields the cycle;
- the distinct types that carry the cycle's draft tokens on that way;
- the names of our own packages that the given files import: what a reader has to know who opens them.
"""

import argparse
import ast
import asyncio
import json
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence, Set
from contextlib import AsyncExitStack, aclosing
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import grpc
import numpy as np
from google.protobuf.message import Message

import orchestrator
from orchestrator.application import OrchestratorApplication
from orchestrator.generation.cycle import Cycle, run_cycles
from orchestrator.settings import OrchestratorSettings
from orchestrator.stack.bundled import bundled_pair
from outrider.v1 import generation_pb2, generation_pb2_grpc
from services.draft.application import DraftApplication
from services.draft.settings import DraftSettings
from services.frame.server import FrameServer
from services.target.application import TargetApplication
from services.target.settings import TargetSettings

ROOT = Path(orchestrator.__file__).resolve().parents[1]
PACKAGES = ("orchestrator", "services", "outrider")
NUM_DRAFT_TOKENS = 5
# The cycle that is looked at: in the first one the services read the prompt.
CYCLE = 2
_MOST_DEEP = 2


@cache
def our_file(file_name: str) -> str | None:
    """Return a file's name from the root of the project, where it is one of ours that run."""
    path = Path(file_name)
    name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
    return name if name.split("/")[0] in ("orchestrator", "services") else None


def carriers(value: object, tokens: Sequence[int], depth: int = _MOST_DEEP) -> set[type]:
    """Return the types through which `value` leads to just these tokens: plain sequences, messages, types of ours."""
    if holds(value, tokens):
        return {type(value)}
    if depth == 0:
        return set()
    found = set[type]().union(*(carriers(part, tokens, depth - 1) for part in parts_of(value)))
    return found | {type(value)} if found else found


def holds(value: object, tokens: Sequence[int]) -> bool:
    """Whether a plain sequence has these tokens in it, one after the other; as ids, or as `token` of its items."""
    if isinstance(value, np.ndarray):
        last: list[object] = value[-64:].tolist() if value.ndim == 1 else []
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes | deque):
        last = [getattr(item, "token", item) for item in value[-64:]]
    else:
        return False
    size = len(tokens)
    return any(last[start : start + size] == list(tokens) for start in range(len(last) - size + 1))


def parts_of(value: object) -> list[object]:
    """Return what a message, or a value of ours, is made of."""
    if isinstance(value, Message):
        return [part for _, part in value.ListFields()]
    if is_ours(type(value)):
        slots = {name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())}
        return [*(getattr(value, name, None) for name in slots), *getattr(value, "__dict__", {}).values()]
    return []


def is_ours(kind: type) -> bool:
    """Whether a type is of our packages, messages among them."""
    return kind.__module__.split(".")[0] in PACKAGES


class CyclePath:
    """Looks at every call of a function of ours, in all threads, during one cycle."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self._values: dict[int, object] = {}
        self._tokens: Sequence[int] = ()
        self._is_on = False

    def watch(self) -> None:
        """Begin to be told of calls, here and in threads that begin later."""
        threading.setprofile(self._look)
        sys.setprofile(self._look)

    def stop(self) -> None:
        """Look no more."""
        threading.setprofile(None)
        sys.setprofile(None)

    async def cycles(self, cycles: AsyncGenerator[Cycle, None]) -> AsyncGenerator[Cycle, None]:
        """Pass the cycles on, and look while the one that is wanted is made."""
        async with aclosing(cycles):
            self._is_on = CYCLE == 0
            async for cycle in cycles:
                if cycle.index == CYCLE:
                    self._tokens = list(cycle.draft.tokens)
                self._is_on = False
                yield cycle
                self._is_on = cycle.index + 1 == CYCLE

    @property
    def shapes(self) -> set[str]:
        """The types that the draft tokens of the cycle went through."""
        return {_name(kind) for value in self._values.values() for kind in carriers(value, self._tokens)}

    def _look(self, frame: FrameType, event: str, argument: object) -> None:
        if self._is_on and event in ("call", "return") and (name := our_file(frame.f_code.co_filename)):
            self.files.add(name)
            self._values.update((id(value), value) for value in (*frame.f_locals.values(), argument))


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


async def look(pair: tuple[Path, Path]) -> CyclePath:
    """Generate once and return what was seen of one cycle."""
    path = CyclePath()
    original = run_cycles
    users = [module for module in sys.modules.values() if getattr(module, "run_cycles", None) is original]
    async with AsyncExitStack() as stack:
        for module in users:
            watched = patch.object(module, "run_cycles", lambda *args, **flags: path.cycles(original(*args, **flags)))
            stack.enter_context(watched)
        path.watch()
        stack.callback(path.stop)
        await _serve_one(stack, pair)
    return path


async def _serve_one(stack: AsyncExitStack, pair: tuple[Path, Path]) -> None:
    """Start the services until the stack is left, and generate once."""
    common: dict[str, Any] = {"port": 0, "threads": 1, "slots": 2, "context": 256, "flash_attention": "off"}
    settings = TargetSettings(model=pair[0], exact="off", **common), DraftSettings(model=pair[1], **common)
    target = await stack.enter_async_context(FrameServer(settings[0], TargetApplication(settings[0])))
    draft = await stack.enter_async_context(FrameServer(settings[1], DraftApplication(settings[1])))
    peers = OrchestratorSettings(port=0, target=target.address, draft=draft.address, draft_timeout_s=60.0)
    server = await stack.enter_async_context(FrameServer(peers, OrchestratorApplication(peers)))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
    stub = generation_pb2_grpc.GenerationServiceStub(channel)
    while not (await stub.GetStatus(generation_pb2.GetStatusRequest())).draft.is_available:
        await asyncio.sleep(0.05)
    fixed = generation_pb2.SPECULATION_MODE_FIXED
    speculation = generation_pb2.Speculation(
        mode=fixed, num_draft_tokens=NUM_DRAFT_TOKENS, min_joint_confidence=0.0, drafter=generation_pb2.DRAFTER_REMOTE
    )
    request = generation_pb2.GenerateRequest(text="def main(", max_tokens=32, seed=1, speculation=speculation)
    async for _ in stub.Generate(request):
        pass


def names_of(files: Sequence[Path]) -> Set[str]:
    """Return what the files import from our own packages, and what they take from modules of ours."""
    names: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def main() -> None:
    """Look as the command line says, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("files", type=Path, nargs="*", help="whose imports of ours are listed")
    parser.add_argument("--json", action="store_true", help="the numbers alone, as a line of JSON")
    arguments = parser.parse_args()
    path = asyncio.run(look(bundled_pair()))
    found = {"files": path.files, "shapes": path.shapes, "names": names_of(arguments.files)}
    if not arguments.json:
        for what, names in found.items():
            print(f"{what}: {len(names)}", *sorted(names), sep="\n    ")
    print(json.dumps({what: len(names) for what, names in found.items()}))


if __name__ == "__main__":
    main()
